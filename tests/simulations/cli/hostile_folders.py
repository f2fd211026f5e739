"""Results folders, scenarios and plans from anybody: each is made by one change to a good one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], object]
DEEP = 100_000


def write(name: str, content: str | bytes) -> Change:
    data = content.encode() if isinstance(content, str) else content

    def change(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return change


def instead(name: str, make: Callable[[Path], object]) -> Change:
    """Put something else there than a file."""

    def change(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        make(path)

    return change


def text(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        before = path.read_text()
        assert old in before
        path.write_text(before.replace(old, new, 1))

    return change


def line(**changes: Any) -> Change:
    """Change keys of the first round's line."""

    def change(folder: Path) -> None:
        path = folder / "rounds.jsonl"
        initial, first, *others = path.read_text().splitlines()
        first = json.dumps(json.loads(first) | changes)
        path.write_text("\n".join([initial, first, *others]) + "\n")

    return change


def summary(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "summary.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))

    return change


ROUNDS: dict[str, Change] = {
    "nothing": write("rounds.jsonl", ""),
    "no text": write("rounds.jsonl", bytes(range(256))),
    "a number a line": write("rounds.jsonl", "1\n2\n3\n"),
    "lists": write("rounds.jsonl", "[]\n[]\n"),
    "no keys": write("rounds.jsonl", "{}\n{}\n"),
    "other keys": write("rounds.jsonl", '{"a": 1}\n{"b": 2}\n'),
    "depth": write("rounds.jsonl", "[" * DEEP + "\n{}\n"),
    "depth in the last line": write("rounds.jsonl", "[" * DEEP),
    "nan": write("rounds.jsonl", '{"round": 0, "agreement": NaN}\n{}\n'),
    "a number of many digits": write("rounds.jsonl", '{"round": ' + "9" * 5000 + "}\n{}\n"),
    "a folder": instead("rounds.jsonl", Path.mkdir),
    "a link to itself": instead("rounds.jsonl", lambda path: path.symlink_to(path)),
    "text as number of a round": line(round="two"),
    "a list as number of a round": line(round=[1]),
    "rates that are none": line(rates=3),
    "rates that are text": line(rates={"released": {"accuracy": "high"}}),
    "rates of a list": line(rates={"released": [1, 2]}),
    "backdoors that are none": line(backdoors=5),
    "details that are text": line(details="hello"),
    "screens that are none": line(details={"screens": 3}),
    "verdicts that are none": line(details={"screens": [{"verdicts": 7}]}),
    "rejections that are none": line(details={"rejections": 3, "failures": {}}),
    "markup": line(details={"refused": "[red]x[/red] [link=file:///etc]"}),
    "control characters": line(details={"refused": "a\nb\u001b[31m\u202e"}),
    "seconds that are text": line(train_seconds="long", sanitize_seconds=[]),
    "replies that are text": line(num_replies="all"),
}
SUMMARY: dict[str, Change] = {
    "nothing": write("summary.json", ""),
    "no text": write("summary.json", bytes(range(256))),
    "a list": write("summary.json", "[]"),
    "no keys": write("summary.json", "{}"),
    "depth": write("summary.json", "[" * DEEP),
    "depth in a key": write("summary.json", '{"scenario": ' + '{"a": ' * DEEP),
    "nan": write("summary.json", '{"seed": NaN}'),
    "a folder": instead("summary.json", Path.mkdir),
    "no means": summary(last_three_rounds="gone"),
    "means that are none": summary(last_three_rounds=3, since_attack="x"),
    "rates that are text": summary(last_three_rounds={"released": {"accuracy": "high"}}),
    "rates of other metrics": summary(last_three_rounds={"released": {"[red]": 0.5}}),
    "seconds that are none": summary(seconds=None),
    "counts that are text": summary(num_refused="many", num_rejected=[1]),
    "rounds that are none": summary(rounds="three"),
    "backdoors that are none": summary(backdoors=7, worst_attack_success_rate="all"),
    "screens that are none": summary(screens="x", durability=3),
    "a name of markup": summary(scenario="[red]<script>alert(1)</script>"),
    "a name that is none": summary(scenario=7, device=[]),
}
SCENARIO: dict[str, Change] = {
    "missing": lambda folder: (folder / "scenario.yaml").unlink(),
    "nothing": write("scenario.yaml", ""),
    "no text": write("scenario.yaml", bytes(range(256))),
    "a list": write("scenario.yaml", "[1, 2]"),
    "an alias": write("scenario.yaml", "a: &a [1]\nb: *a\n"),
    "laughs": write("scenario.yaml", "a: &a [1]\n" + "".join(
        f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9))),
    "depth": write("scenario.yaml", "[" * DEEP),
    "a key twice": text("scenario.yaml", "seed: 0", "seed: 0\nseed: 1"),
    "a tag": write("scenario.yaml", "!!python/object/apply:os.mkdir [made]"),
    "no seed": text("scenario.yaml", "seed: 0", "sede: 0"),
    "a seed that is none": text("scenario.yaml", "seed: 0", "seed: [1]"),
    "code to import": text("scenario.yaml", "name: small-cnn", "name: os:mkdir"),
    "a module to import": text("scenario.yaml", "name: small-cnn", "name: this:s"),
    "a data set elsewhere": text("scenario.yaml", "name: digits", "name: image-folder\n  root: /x"),
    "a folder": instead("scenario.yaml", Path.mkdir),
    "a name that leaves": text("scenario.yaml", "name: small", "name: ../../x"),
    "two million characters": write("scenario.yaml", "a: " + "x" * 2_000_000),
}  # fmt: skip
CHECKPOINT: dict[str, Change] = {
    "nothing": write("checkpoint", b""),
    "text": write("checkpoint", b"hello"),
    "its first bytes": write("checkpoint", b"fl-defense checkpoint 2 "),
    "no seal": write("checkpoint", b"fl-defense checkpoint 2 \n" + bytes(100)),
    "the version before": write("checkpoint", b"fl-defense checkpoint 1 " + b"0" * 64 + b"\nx"),
    "a folder": instead("checkpoint", Path.mkdir),
    "a link to itself": instead("checkpoint", lambda path: path.symlink_to(path)),
}
PLANS = {
    "nothing": "",
    "a list": "[1]",
    "text": "hello",
    "laughs": "a: &a [1]\nscenario: *a\ngrid: {seed: [0]}\n",
    "depth": "[" * DEEP,
    "no grid": "scenario: small.yaml\n",
    "an empty grid": "scenario: small.yaml\ngrid: {}\n",
    "a grid of a billion": "scenario: small.yaml\ngrid: {"
    + ", ".join(f"a{i}: [{', '.join(map(str, range(10)))}]" for i in range(9))
    + "}\n",
    "a key twice": "scenario: small.yaml\ngrid: {seed: [0], seed: [1]}\n",
    "a field that is none": "scenario: small.yaml\ngrid: {sede: [0]}\n",
    "values that are no list": "scenario: small.yaml\ngrid: {seed: 0}\n",
    "no scenario there": "scenario: nowhere.yaml\ngrid: {seed: [0]}\n",
    "a folder as scenario": "scenario: .\ngrid: {seed: [0]}\n",
    "infinite": "scenario: small.yaml\ngrid: {seed: [.inf]}\n",
    "one run twice": "scenario: small.yaml\ngrid: {seed: [0, 0]}\n",
    "the whole line in a value": "scenario: small.yaml\ngrid: {name: ['../../x']}\n",
    "a tag": "!!python/object/apply:os.mkdir [made]\n",
}
KEYS = {
    "empty": b"",
    "short": b"short\n",
}
