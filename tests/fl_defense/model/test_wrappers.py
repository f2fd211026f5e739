import pytest

from fl_defense.model.wrappers import unwrapping, wrapper_prefix


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["a", "b.c"], ""),
        (["module.a", "module.b.c"], "module."),
        (["_orig_mod.module.a", "_orig_mod.module.b.c"], "_orig_mod.module."),
        (["module.a", "b.c"], ""),
        (["module.a", "module.x"], ""),
        ([], ""),
    ],
)
def test_only_a_prefix_of_all_names_is_a_wrappers(names: list[str], prefix: str) -> None:
    assert wrapper_prefix(names, ["a", "b.c"]) == prefix


def test_a_parts_own_name_is_no_prefix() -> None:
    assert wrapper_prefix(["module.a"], ["module.a"]) == ""


def test_the_cure_is_named_with_the_wrapper() -> None:
    assert "torch.compile's prefix" in unwrapping("_orig_mod.a")
    assert unwrapping("a") == ""
