from dataclasses import replace

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_changes_the_code_of_today(mutant: Mutant) -> None:
    assert mutant.text() != (ROOT / mutant.file).read_text()
    for file in mutant.tests.split():
        assert (ROOT / file).is_file()


def test_a_mutant_of_code_that_is_gone_is_an_error() -> None:
    with pytest.raises(
        LookupError, match=r"must hold 'nowhere' once, got 0; write the mutant anew"
    ):
        replace(MUTANTS[0], old="nowhere").text()
