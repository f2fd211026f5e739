"""How README and pages are written: short sentences, plain words, numbers in tables, no dead links."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.prose import paragraphs, sentences, words

ROOT = Path(__file__).parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
HERE = f"{URLS['Repository']}/blob/main/"
RAW = HERE.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "examples/drop_in/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
MOST_WORDS = 25
README_LINES, README_COLUMNS = 230, 6
BANNED = re.compile(
    r"\b(alarms?|obey(s|ed)?|uneven|finalists?|served class|(the|a|its|this) raise|logit raise|"
    r"leads? to class|simply|just|easily|obviously|very|leverag\w+|utiliz\w+|seamless\w*|robustly|"
    r"state-of-the-art|novel)\b",
    re.IGNORECASE,
)
"""Words of our own that stop a reader, and words that say nothing."""
NUMBERS = {"Python 3.11", "exit code 3", "Apache-2.0", "AsiaCCS 2023", "2017", "2020"}
"""What the README may say in digits outside a table: names."""
MEASURED_IN_PROSE = ("docs/decisions", "docs/notes", "docs/results.md", "docs/reference")
"""Where a number belongs to the sentence: records of what was tried, and lists of defaults."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@every_page
def test_sentences_are_short(page: Path) -> None:
    found = [each for each in sentences(page.read_text()) if len(words(each)) > MOST_WORDS]
    assert found == []


@every_page
def test_words_are_plain(page: Path) -> None:
    text = "\n".join(re.sub(r"`[^`]*`", "", each) for each in paragraphs(page.read_text()))
    assert [found[0] for found in BANNED.finditer(text)] == []


@every_page
def test_measured_numbers_stand_in_tables(page: Path) -> None:
    """A rate or a large count in a sentence is a result; it belongs where one can compare it."""
    if str(page.relative_to(ROOT)).startswith(MEASURED_IN_PROSE):
        pytest.skip("a record of what was measured, or generated")
    found = []
    for sentence in sentences(page.read_text()):
        plain = re.sub(r"`[^`]*`|\barXiv \S+|\bversion [\d.]+|\bv?\d+\.\d+\.\d+", "", sentence)
        for name in NUMBERS:
            plain = plain.replace(name, "")
        found += re.findall(r"\b\d+\.\d+\b|\b\d{1,3}(?:,\d{3})+\b|\b\d+ ?%", plain)
    assert found == []


def test_the_readme_has_no_digit_in_a_sentence_but_in_names() -> None:
    found = []
    for sentence in sentences(README.read_text()):
        plain = re.sub(r"`[^`]*`", "", sentence)
        for name in NUMBERS:
            plain = plain.replace(name, "")
        found += [sentence] if re.search(r"\d", plain) else []
    assert found == []


@every_page
def test_commands_stand_in_blocks(page: Path) -> None:
    """A command with arguments is copied, so it stands by itself; a command's name may be said."""
    if "decisions" in page.parts or page.name == "results.md":
        pytest.skip("records are not for copying, and results say what measured them")
    text = "\n".join(paragraphs(page.read_text()))
    commands = re.findall(r"`((?:fl-defense|make|python|pip|uv|flwr)\s[^`]+)`", text)
    assert [each for each in commands if len(each.split()) > 2] == []


def test_the_readme_is_short_and_its_tables_narrow() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.replace(r"\|", "").count("|") - 1 <= README_COLUMNS, line


def test_the_readme_reads_the_same_on_an_index() -> None:
    """Its links and pictures are whole addresses; those of this repository exist."""
    addresses = re.findall(r"\]\(([^)\s]+)\)", README.read_text())
    assert addresses
    for address in addresses:
        assert address.startswith("https://"), address
        for prefix in (HERE, RAW):
            if address.startswith(prefix):
                assert (ROOT / address.removeprefix(prefix).partition("#")[0]).exists(), address
        if "fl-defense/fl-defense" in address:
            assert address.startswith((HERE, RAW)), address


def test_the_repository_has_one_address() -> None:
    """Who moves it changes pyproject.toml, and this names every other place."""
    ours = (URLS["Repository"], URLS["Documentation"], RAW)
    files = [
        path for pattern in ("*.md", "*.toml", "*.yml", "*.cff") for path in ROOT.glob(pattern)
    ]
    folders = ("docs", "examples", "simulations", "fl_defense", "configs", "deploy", "benchmarks")
    kinds = {".md", ".py", ".yaml", ".yml", ".json", ".toml"}
    files += [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in kinds
    ]
    found = [
        address
        for path in files
        for address in re.findall(
            r"https?://[^\s)\"'>`\]]*fl-defense[^\s)\"'>`\]]*", path.read_text()
        )
    ]
    assert len(found) > 10
    assert [address for address in found if not address.startswith(ours)] == []


@every_page
def test_headings_that_are_linked_exist(page: Path) -> None:
    for path, heading in re.findall(r"\]\(((?!http)[^)#\s]*)#([^)\s]+)\)", page.read_text()):
        target = (page.parent / path) if path else page
        text = re.sub(r"```.*?```", "", target.read_text(), flags=re.DOTALL)
        titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
        assert heading in {slug(title) for title in titles}, f"{path}#{heading}"


def slug(title: str) -> str:
    """A heading's address, as GitHub and MkDocs make it."""
    kept = re.sub(r"[^\w\s-]", "", title.lower()).strip()
    return re.sub(r"[\s]+", "-", kept)


def test_the_checks_can_fail() -> None:
    text = (
        "Short. Word"
        + " word" * 25
        + ".\n\n- an *item*\n\n```\ncode. "
        + "x " * 30
        + "\n```\n| 1 |\n"
    )
    assert [len(words(each)) for each in sentences(text)] == [1, 26, 2]
    assert [*sentences("See Yan et al. 2023, e.g. this. Then `a. B` that.")] == [
        "See Yan et al. 2023, e.g. this.", "Then `a. B` that."
    ]  # fmt: skip
    assert BANNED.search("It obeyed the trigger")
    assert (
        slug("What a `hostile` client can, and cannot do")
        == "what-a-hostile-client-can-and-cannot-do"
    )
