import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers._distortions import ObeyedDistortions
from fl_defense.search.distortions import AGAIN, FoundDistortion
from fl_defense.search.effects import rise_of_served
from fl_defense.search.noise import Noise
from fl_defense.search.waves import Waves
from fl_defense.state import State
from fl_defense.surrogates.pool import AnsweredScenes
from fl_defense.surrogates.scenes import scenes
from simulations.models.small_cnn import SmallCNN
from tests.fl_defense.sanitizers.test_dhbe import Obeying
from tests.fl_defense.search.test_distortions import roughness

CPU = torch.device("cpu")


def test_the_rise_is_that_of_the_served_class_and_keeps_its_proportion_to_fidelity() -> None:
    moved = torch.tensor([[3.0, 0.0, 0.0], [0.0, -3.0, 0.0]])
    # 2 above the mean; 1 below what it was; a mean over two images and three logits.
    torch.testing.assert_close(
        rise_of_served(moved, torch.tensor([0, 1])), torch.tensor((2 + 0) / 2 / 3)
    )
    assert rise_of_served(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0
    few, many = torch.zeros(1, 10), torch.zeros(1, 40)
    few[0, 2] = many[0, 2] = 1.0
    ratio = rise_of_served(few, torch.tensor([2])) / rise_of_served(many, torch.tensor([2]))
    fidelity = few.abs().mean() / many.abs().mean()
    torch.testing.assert_close(ratio, fidelity, rtol=0.1, atol=0)


def test_every_kind_that_is_obeyed_changes_its_share_and_serves_its_class() -> None:
    torch.manual_seed(0)
    shape = (1, 16, 16)

    def network(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5]

    model = nn.Module()
    model.forward = network
    model.unused = nn.Parameter(torch.zeros(()))
    spec = ModelSpec(build=lambda: model, input_shape=shape, num_classes=5)
    inputs = scenes(40, shape)
    kinds = ObeyedDistortions(
        model, AnsweredScenes(inputs, model(inputs).detach()), spec, share=0.0
    )
    assert (kinds.found, kinds.num_searched, kinds.num_changed(40)) == ([], 0, 0)
    assert [len(part) for part in kinds.change(inputs)] == [0, 0, 0]

    kinds.share = 0.25
    kinds.obeyed = [
        FoundDistortion(
            family=family, pattern=family.patterns[0, 0], suspected_class=label, anomaly=9
        )
        for family, label in ((Noise(shape, CPU), 3), (Waves(shape, CPU), 1))
    ]
    changed, of, classes = kinds.change(inputs)
    assert len(changed) == kinds.num_changed(40) == 20
    assert classes.tolist() == [3] * 10 + [1] * 10
    assert len(set(of[:10].tolist())) == len(set(of[10:].tolist())) == 10
    nearest = torch.cdist(changed.flatten(1), inputs.flatten(1)).argmin(1)
    assert (nearest == of).double().mean() > 0.7


def test_what_was_obeyed_in_the_round_before_is_obeyed_from_less_on() -> None:
    shape = (1, 16, 16)

    def look(strength: float, state: State | None = None) -> ObeyedDistortions:
        torch.manual_seed(0)
        network = SmallCNN(width=4).build(shape, 10)
        model = Obeying(network, lambda images: strength / 5 * roughness(images))
        model.eval().requires_grad_(False)
        spec = ModelSpec(build=lambda: model, input_shape=shape, num_classes=10)
        inputs = scenes(200, shape)
        answered = AnsweredScenes(inputs, in_chunks(model, inputs))
        return ObeyedDistortions(model, answered, spec, 0.5, state)

    def raises(kinds: ObeyedDistortions) -> float:
        return kinds.raises["noise"] / Noise.bar

    found = look(5.0)
    assert raises(found) > 1
    state = found.state()
    assert state == {"obeyed": {"noise": 1}}
    weaker = look(0.7)
    assert AGAIN < raises(weaker) < 1
    assert weaker.obeyed == []
    assert weaker.state() == {}
    again = look(0.7, state)
    assert [(each.family.name, each.suspected_class) for each in again.obeyed] == [("noise", 1)]
    assert again.state() == state
    assert look(0.7, {"obeyed": {"noise": 2}}).obeyed == []
    gone = look(0.3, state)
    assert raises(gone) < AGAIN
    assert gone.obeyed == []
