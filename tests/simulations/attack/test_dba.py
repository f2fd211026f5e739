from collections.abc import Callable

import pytest
import torch

from simulations.attack.backdoor import Backdoor
from simulations.attack.context import AttackContext
from simulations.attack.dba import DBA
from simulations.attack.dba_single_shot import DBASingleShot
from simulations.attack.fcba import FCBA
from simulations.attack.in_parts import InParts
from simulations.attack.triggers import Bars, Patch

MakeContext = Callable[..., AttackContext]
BACKDOOR = Backdoor(trigger=Bars(width=3), target=3)
BLACK = torch.zeros(1, 1, 8, 8)


def pieces_of(
    attack: InParts, make: MakeContext, malicious: tuple[int, ...]
) -> list[list[set[int]]]:
    contexts = [
        make(BACKDOOR, partition=each, malicious=malicious, attackers=(each,)) for each in malicious
    ]
    found = [[backdoor.trigger for backdoor in attack.planted(context)] for context in contexts]
    return [[set(each.shown) for each in own if isinstance(each, Bars)] for own in found]


def test_the_bars_parts_are_disjoint_and_make_up_the_whole() -> None:
    whole = BACKDOOR.trigger.stamp(BLACK)
    parts = [Bars(width=3).only([part]).stamp(BLACK) for part in range(4)]
    assert torch.equal(torch.stack(parts).sum(0), whole)  # no pixel twice, none left out
    assert whole.sum() == 4 * 3
    assert [part.nonzero()[0, 2:].tolist() for part in parts] == [[0, 0], [0, 5], [3, 0], [3, 5]]


def test_each_attacker_plants_its_part_and_all_of_them_the_whole(
    make_context: MakeContext,
) -> None:
    assert pieces_of(DBA(), make_context, (2, 4, 6, 8)) == [[{0}], [{1}], [{2}], [{3}]]
    assert pieces_of(DBA(), make_context, (2, 4)) == [[{0}, {2}], [{1}, {3}]]
    assert pieces_of(DBA(), make_context, (1, 2, 3, 4, 5)) == [[{0}], [{1}], [{2}], [{3}], [{0}]]


def test_single_shots_are_replacements_with_one_part_each_in_turn(
    make_context: MakeContext,
) -> None:
    attack = DBASingleShot(
        malicious=(2, 4, 6, 8), attackers_per_round=1, attack_rounds=(9, 11, 13, 15)
    )
    rounds = [attack.attackers(number, num_clients=10, seed=0) for number in range(9, 16)]
    assert rounds == [(2,), (), (4,), (), (6,), (), (8,)]
    assert pieces_of(attack, make_context, (2, 4, 6, 8)) == [[{0}], [{1}], [{2}], [{3}]]
    received = {"w": torch.tensor([1.0])}
    context = make_context(BACKDOOR, attackers=(1,), received=received, weights=frozenset({"w"}))
    assert attack.craft({"w": torch.tensor([1.5])}, context)["w"] == 6  # 1 + 10 replies * 0.5


def test_all_combinations_but_the_whole_are_planted(make_context: MakeContext) -> None:
    pieces = FCBA().pieces(4)
    assert len(pieces) == len(set(pieces)) == 14
    assert (0, 1, 2, 3) not in pieces
    dealt = pieces_of(FCBA(), make_context, (1, 3, 5))
    assert [len(own) for own in dealt] == [5, 5, 4]
    assert sorted(map(sorted, (each for own in dealt for each in own))) == sorted(map(list, pieces))


def test_nobody_stamps_the_whole_trigger(make_context: MakeContext) -> None:
    context = make_context(BACKDOOR, partition=2, malicious=(2, 4), attackers=(2, 4))
    images = torch.full((40, 1, 8, 8), 100, dtype=torch.uint8)
    labels = torch.arange(40) % 4
    poisoned, relabeled = DBA(poison_rate=0.5).poison(images, labels, context)
    bright = (poisoned == 255).flatten(1).sum(1)
    assert set(bright.tolist()) == {0, 3}
    assert (bright == 3).sum() == 20
    assert relabeled[bright == 3].eq(3).all()


def test_a_trigger_without_parts_is_refused() -> None:
    (fault,) = DBA().misfits([BACKDOOR, Backdoor(trigger=Patch())])
    assert fault == "needs a trigger with parts, got patch; choose the trigger bars"


def test_bars_that_leave_the_image_or_show_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="leave a 8x8 image"):
        Bars().check((1, 8, 8))
    Bars(width=3).check((1, 8, 8))
    with pytest.raises(ValueError, match="shown"):
        Bars(shown=(4,))
    with pytest.raises(ValueError, match="shown"):
        Bars(shown=())
