"""What is made from the code is as the code is, and says something of everything."""

import pytest

from fl_defense.facts import Facts
from fl_defense.inspections import INSPECTIONS
from fl_defense.sanitizers import SANITIZERS
from fl_defense.screens import SCREENS
from simulations.cli import generate
from simulations.scenario.fields import first_sentence
from simulations.scenario.tables import TABLES


def test_no_generated_file_is_stale() -> None:
    files = generate.generated_files()
    stale = [path for path, text in files.items() if generate.read(path) != text]
    assert stale == [], "run `make generated`"


@pytest.mark.parametrize("cls", [*SANITIZERS.values(), *INSPECTIONS.values(), *SCREENS.values()])
def test_every_method_states_its_facts(cls: type) -> None:
    facts = generate.facts_of(cls)
    assert "not stated" not in (facts.needs, facts.changes, facts.cost, facts.paper, facts.limits)


def test_a_method_that_states_no_facts_is_shown_all_the_same() -> None:
    assert generate.facts_of(int) == Facts()


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_says_what_it_is(kind: str) -> None:
    page = generate.scenario_page()
    for name, cls in TABLES[kind].table.items():
        sentence = first_sentence(cls)
        assert sentence, name
        assert f"### {kind}: {name}\n\n{generate.in_yaml(sentence)}" in page


def test_a_block_is_made_anew_and_what_is_around_it_stays() -> None:
    text = "before\n<!-- generated: model -->\nold\n<!-- end -->\nafter"
    made = generate.with_blocks(text)
    head = "before\n<!-- generated: model -->\n| name | what it is |\n| --- | --- |\n"
    assert made.startswith(head)
    assert "| `small-cnn` | Three 3x3 convolutions" in made
    assert made.endswith("|\n<!-- end -->\nafter")
    assert "old" not in made
    assert generate.with_blocks(made) == made


def test_every_argument_and_option_says_what_it_is() -> None:
    page = generate.commands_page()
    assert "| `SCENARIO` | A YAML file, or a scenario that ships" in page
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []


def test_an_unknown_block_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        generate.with_blocks("<!-- generated: nothing -->\n<!-- end -->")


def test_sentences_spell_fields_as_yaml_does() -> None:
    assert generate.in_yaml("each has `student_steps` of\n`x` and a_b") == (
        "each has `student-steps` of `x` and a_b"
    )
