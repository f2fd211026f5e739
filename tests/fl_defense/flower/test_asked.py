from fl_defense.flower.asked import printable


def test_a_reason_is_one_short_line_whatever_a_client_writes() -> None:
    assert printable("no\nluck\t \x1b[31m today ") == "no luck [31m today"
    assert printable("x" * 1_000_000) == "x" * 200
