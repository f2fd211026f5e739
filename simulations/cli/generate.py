"""Writes what is made from the code: the JSON Schema, `configs/defenses`, tables in the documents.

    python -m simulations.cli.generate           # writes; `make generated`
    python -m simulations.cli.generate --check   # fails if a file is stale; part of `make check`

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`, in any Markdown file of the
repository; the names are those of `BLOCKS`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

from typer.core import TyperArgument, TyperGroup
from typer.main import get_command

from fl_defense.atomic_write import replace_file
from fl_defense.facts import Facts
from fl_defense.inspections import INSPECTIONS
from fl_defense.rounds.records import RoundRecord
from fl_defense.sanitizers import SANITIZERS
from fl_defense.screens import SCREENS
from simulations import shipped
from simulations.cli.list_fields import Row, part_rows, scenario_rows, spelled
from simulations.cli.main import app
from simulations.measurement import summary
from simulations.measurement.measured_round import MeasuredRound
from simulations.metrics import METRICS
from simulations.scenario.fields import REQUIRED, first_sentence, settings_of
from simulations.scenario.load import scenario_schema
from simulations.scenario.named_parts import NamedPart, presets_of
from simulations.scenario.parts import Part
from simulations.scenario.tables import INSPECTION, SANITIZER, SCREEN, TABLES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Write the files, or with `--check` name those that are stale and fail."""
    stale = [path for path, text in generated_files().items() if read(path) != text]
    if "--check" in sys.argv[1:]:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            sys.exit(f"stale: {names}; run `make generated`")
        return
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, generated_files()[path].encode())


def read(path: Path) -> str | None:
    """Return a file's text, or None if there is no such file."""
    return path.read_text(encoding="utf-8") if path.exists() else None


def generated_files() -> dict[Path, str]:
    """Return the text of every file that is written, or partly written, from the code."""
    files = {
        ROOT / "configs/scenario.schema.json": json.dumps(scenario_schema(), indent=2) + "\n",
        ROOT / "docs/reference/scenario.md": scenario_page(),
        ROOT / "docs/reference/cli.md": commands_page(),
    }
    for name in SANITIZERS:
        path = ROOT / "configs/defenses" / f"{name.replace('-', '_')}.yaml"
        files[path] = defense_file(name)
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text(encoding="utf-8")
        if page not in files and "<!-- generated: " in text:
            files[page] = with_blocks(text)
    return files


def with_blocks(text: str) -> str:
    """Return a document with each generated block made anew.

    Raises:
        KeyError: if a block has a name that is not known.
    """
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], text)


def defense_file(name: str) -> str:
    """Return a YAML file with every field of a defense, its default and its sentence."""
    cls = SANITIZERS[name]
    lines = [
        f"# {in_yaml(first_sentence(cls))}",
        "# Paste under `defense:` in a scenario; every field stands here with its default.",
        f"name: {name}",
        *_yaml_lines(SANITIZER.part_of(cls)),
    ]
    return "\n".join(lines) + "\n"


def _yaml_lines(part: Part, value: object = None, indent: str = "") -> Iterator[str]:
    """Yield the fields of a part with their sentences, those of parts inside it indented."""
    for key, (setting, reader) in part.settings.items():
        default = setting.default if value is None else getattr(value, setting.name)
        sentence = in_yaml(setting.sentence)
        yield from (
            f"{indent}# {line}" for line in wrap(sentence, 98 - len(indent), break_on_hyphens=False)
        )
        if isinstance(reader, Part) and default is not REQUIRED:
            yield f"{indent}{key}:"
            yield from _yaml_lines(reader, default, indent + "  ")
        else:
            yield f"{indent}{key}: {spelled(reader.write(default))}"


def commands_page() -> str:
    """Return the page with every command, its arguments and options."""
    sections = [
        "# Commands",
        "Made by `make generated` from the code. `--help` after a command prints the same, and "
        "`--install-completion` lets the shell complete them.",
        "Exit codes: 0, done; 1, the federation failed; 2, bad input; 3, a backdoor is suspected "
        "or could not be removed; 130, interrupted.",
    ]
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in sorted(group.commands.items()):
        rows = [_parameter(each) for each in command.params]
        about = " ".join((command.help or "").split())
        sections += [f"## fl-defense {name}", about]
        if rows:
            sections.append(markdown(("argument or option", "meaning"), rows).rstrip())
    return "\n\n".join(sections) + "\n"


def _parameter(parameter: Any) -> tuple[str, str]:
    """Return an argument in capitals, or an option's longest name, with its sentence."""
    if isinstance(parameter, TyperArgument):
        return f"`{parameter.human_readable_name}`", parameter.help or ""
    return f"`{max(parameter.opts, key=len)}`", parameter.help or ""


def scenario_page() -> str:
    """Return the page with all keys of a scenario."""
    sections = [
        "# Keys of a scenario",
        "Made by `make generated` from the code; `fl-defense list` prints the same. "
        "[Your own parts](../contribute/add-a-defense.md) are named by their path.",
        "Keys are dotted as `--set` takes them. Another `name` of a part keeps what both parts "
        "have from a common base: `--set attack.name=dba` keeps who is malicious and when. "
        "Other fields are dropped; one line names them.",
        rows_table(scenario_rows()).rstrip(),
    ]
    for kind, part in TABLES.items():
        sections.append(f"## {kind}")
        for name, cls in part.table.items():
            presets = ", ".join(f"`{preset}`" for preset in presets_of(cls))
            about = in_yaml(first_sentence(cls))
            sections.append(f"### {kind}: {name}")
            sections.append(f"{about} Presets: {presets}." if presets else about)
            if part.part_of(cls).settings:
                sections.append(rows_table(part_rows(part.part_of(cls))).rstrip())
    sections.append("## Scenarios that ship")
    sections.append(shipped_scenarios().rstrip())
    return "\n\n".join(sections) + "\n"


def shipped_scenarios() -> str:
    """Return the scenarios with the first sentence of the comment at their heads."""
    rows = [(f"`{name}`", shipped.purpose(path)) for name, path in shipped.scenarios().items()]
    return markdown(("scenario", "what it shows"), rows)


def rows_table(rows: Iterable[Row]) -> str:
    """Return keys with their defaults and sentences as a table."""
    return markdown(
        ("key", "default", "meaning"),
        ((f"`{key}`", f"`{default}`", in_yaml(sentence)) for key, default, sentence in rows),
    )


def facts_table(table: Mapping[str, type], *columns: str) -> str:
    """Return the entries of a table with their facts."""
    entries = ((name, facts_of(cls)) for name, cls in table.items())
    return markdown(
        ("name", *columns),
        ((f"`{name}`", *(getattr(facts, column) for column in columns)) for name, facts in entries),
    )


def facts_lines(cls: type) -> str:
    """Return the facts of one method, each on a line of its own."""
    facts = facts_of(cls)
    names = ("needs", "changes", "cost", "paper", "limits")
    return markdown(("", cls.__name__), ((name, getattr(facts, name)) for name in names))


def settings_table(part: NamedPart, cls: type) -> str:
    """Return the fields of one entry with their defaults and sentences."""
    return rows_table(part_rows(part.part_of(cls)))


def facts_of(cls: type) -> Facts:
    """Return what a class says of itself."""
    facts = getattr(cls, "facts", None)
    return facts if isinstance(facts, Facts) else Facts()


def sentences(table: Mapping[str, type]) -> str:
    """Return the entries of a table with the first sentences of their docstrings."""
    return markdown(
        ("name", "what it is"),
        ((f"`{name}`", in_yaml(first_sentence(cls))) for name, cls in table.items()),
    )


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(head)]
    lines.append(["---"] * len(lines[0]))
    lines += ([" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def in_yaml(sentence: str) -> str:
    """Spell the names of fields and presets in a sentence as YAML does."""
    text = " ".join(sentence.split())
    return re.sub(r"`[a-z]+(?:_[a-z]+)+`", lambda found: found[0].replace("_", "-"), text)


def record_keys() -> str:
    """Return the keys of a line of rounds.jsonl, the server's first."""
    server = {field.name: field.sentence for field in settings_of(RoundRecord)}
    own = {field.name: field.sentence for field in settings_of(MeasuredRound)}
    del own["record"]
    return keys_table(server | own)


def metric_keys() -> str:
    """Return the metrics by the names that stand in files."""
    return keys_table({cls.name: first_sentence(cls) for cls in METRICS.values()})


def keys_table(meanings: Mapping[str, str]) -> str:
    """Return keys of a file with what they mean."""
    rows = ((f"`{key}`", meaning) for key, meaning in meanings.items())
    return markdown(("key", "meaning"), rows)


METHODS = (SANITIZER, INSPECTION, SCREEN)
"""Tables of what has a page, or a place in one."""
BLOCKS: dict[str, Callable[[], str]] = {
    "defenses": lambda: facts_table(SANITIZERS, "needs", "changes", "cost", "paper", "limits"),
    "inspections": lambda: facts_table(INSPECTIONS, "needs", "cost", "paper", "limits"),
    "record-keys": record_keys,
    "summary-keys": lambda: keys_table(summary.KEYS),
    "metric-keys": metric_keys,
    "filters": lambda: facts_table(SCREENS, "needs", "changes", "cost", "paper", "limits"),
    **{kind: partial(sentences, part.table) for kind, part in TABLES.items()},
    **{
        f"{name}-facts": partial(facts_lines, cls)
        for part in METHODS
        for name, cls in part.table.items()
    },
    **{
        f"{name}-settings": partial(settings_table, part, cls)
        for part in METHODS
        for name, cls in part.table.items()
    },
}
"""What stands in a block, by its name."""


if __name__ == "__main__":
    main()
