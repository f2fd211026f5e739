"""What README and docs name exists: files, make targets, scenarios, settings, variants."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest

from benchmarks.defenses import LEVER_GROUPS, LEVERS, SANITIZERS
from benchmarks.federations import VARIANTS
from fl_defense import sanitizers
from simulations.scenario.load import load_scenario

ROOT = Path(__file__).parents[1]
SCENARIOS = sorted((ROOT / "configs/scenarios").glob("*.yaml"))
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CHOICES = {"--sanitizers": {*SANITIZERS, *LEVERS, *LEVER_GROUPS}, "--variants": {*VARIANTS}}
ANYTHING = "..."

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def files_written(text: str) -> dict[str, str]:
    """Files that a page writes by `cat > NAME <<'YAML'`, with their contents."""
    return dict(re.findall(r"cat > (\S+) <<'YAML'\n(.*?)\nYAML\n", text, re.DOTALL))


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a page's blocks and sentences."""
    text = re.sub(r"<<'YAML'\n.*?\nYAML\n", "\n", text, flags=re.DOTALL)
    blocks = re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL)
    found = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`((?:fl-defense|make|python -m)\s[^`]+)`", text)
    found += [" ".join(command.split()) for command in inline]
    for command in found:
        if re.match(r"fl-defense\s|make\s|python -m\s", command):
            yield shlex.split(command, comments=True)


def after(words: list[str], option: str) -> list[str]:
    """Return an option's values: all words up to the next option."""
    values: list[str] = []
    for number, word in enumerate(words):
        if word == option:
            rest = words[number + 1 :]
            end = next((i for i, each in enumerate(rest) if each.startswith("--")), len(rest))
            values += rest[:end]
    return values


@every_page
def test_files_that_are_linked_exist(page: Path) -> None:
    for path in re.findall(r"\]\(((?!http)[^)#\s]+)\)", page.read_text()):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"configs/scenarios/\w+\.yaml", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_says_at_its_head_what_it_is(path: Path) -> None:
    _schema, *lines = path.read_text().splitlines()
    head = [line for line in takewhile(lambda line: line.startswith("#"), lines) if line != "#"]
    assert len(" ".join(head)) > 60


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page.read_text()):
        if words[0] == "make":
            assert words[1] in targets


@every_page
def test_scenarios_that_are_run_load_with_their_settings(page: Path, tmp_path: Path) -> None:
    written = files_written(page.read_text())
    for words in commands(page.read_text()):
        files = [word for word in words if word.endswith(".yaml")]
        if words[:2] != ["fl-defense", "run"] or not files:
            continue
        path = ROOT / files[0]
        if files[0] in written:
            path = tmp_path / files[0]
            path.write_text(written[files[0]])
        engines = [f"engine.name={name}" for name in after(words, "--engine")]
        load_scenario(path, [*after(words, "--set"), *engines])


@every_page
def test_benchmarks_and_their_variants_exist(page: Path) -> None:
    for words in commands(page.read_text()):
        if words[:2] != ["python", "-m"] or not words[2].startswith("benchmarks."):
            continue
        assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists()
        for option, choices in CHOICES.items():
            assert {*after(words, option)} - {ANYTHING} <= choices


METHODS = {
    **{name: f"{name}.md" for name in [*sanitizers.SANITIZERS, "trigger-search", "attribution"]},
    "freeeagle": "deep-sanitizer.md",
}
HEADS = ["Idea", "How it is called", "Settings", "What was measured", "Limits", "Sources"]


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"none"}))
def test_a_method_has_a_page_that_reads_like_the_others(name: str) -> None:
    text = (ROOT / "docs/methods" / METHODS[name]).read_text()
    heads = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert [head for head in heads if head in HEADS] == HEADS
    for block in ("facts", "settings"):
        assert f"<!-- generated: {name}-{block} -->" in text


def test_every_page_is_in_the_menu_and_can_be_reached() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    linked = {ROOT / "docs/index.md"}
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert str(page.relative_to(ROOT / "docs")) in menu, page
        for path in re.findall(r"\]\(((?!http)[^)#\s]+)", page.read_text()):
            linked.add((page.parent / path).resolve())
    decisions = ROOT / "docs/decisions"
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert {page for page in pages - linked if not page.is_relative_to(decisions)} == set()


def test_commands_are_found() -> None:
    text = (
        "Run `make\ntest`.\n```bash\ncat > x.yaml <<'YAML'\nname: x\nYAML\n"
        "fl-defense run x.yaml \\\n  --set a=1 --set b=2 # why\nls\n```\n"
    )
    assert [*commands(text)] == [
        ["fl-defense", "run", "x.yaml", "--set", "a=1", "--set", "b=2"],
        ["make", "test"],
    ]
    assert after(next(commands(text)), "--set") == ["a=1", "b=2"]
    assert files_written(text) == {"x.yaml": "name: x"}
