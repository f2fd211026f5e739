import torch
from torch import Tensor, nn

from fl_defense.model.batches import in_chunks
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers._distortions import ActiveDistortions
from fl_defense.sanitizers._reference import Alone
from fl_defense.search.distortions import DistortionSettings, FoundDistortion
from fl_defense.search.effects import gain_of_suspected
from fl_defense.search.noise import Noise
from fl_defense.search.waves import Waves
from fl_defense.state import State
from fl_defense.surrogates.pool import ScenePool
from fl_defense.surrogates.scenes import scenes
from simulations.models.small_cnn import SmallCNN
from tests.fl_defense.sanitizers.test_dhbe import Reacting
from tests.fl_defense.search.test_distortions import roughness

CPU = torch.device("cpu")


def test_the_gain_is_that_of_the_suspected_class_and_keeps_its_proportion_to_fidelity() -> None:
    moved = torch.tensor([[3.0, 0.0, 0.0], [0.0, -3.0, 0.0]])
    # 2 above the mean; 1 below what it was; a mean over two images and three logits.
    torch.testing.assert_close(
        gain_of_suspected(moved, torch.tensor([0, 1])), torch.tensor((2 + 0) / 2 / 3)
    )
    assert gain_of_suspected(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0
    few, many = torch.zeros(1, 10), torch.zeros(1, 40)
    few[0, 2] = many[0, 2] = 1.0
    ratio = gain_of_suspected(few, torch.tensor([2])) / gain_of_suspected(many, torch.tensor([2]))
    fidelity = few.abs().mean() / many.abs().mean()
    torch.testing.assert_close(ratio, fidelity, rtol=0.1, atol=0)


def test_every_active_kind_changes_its_share_towards_its_class() -> None:
    torch.manual_seed(0)
    shape = (1, 16, 16)

    def network(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5]

    model = nn.Module()
    model.forward = network
    model.unused = nn.Parameter(torch.zeros(()))
    spec = ModelSpec(build=lambda: model, input_shape=shape, num_classes=5)
    inputs = scenes(40, shape)
    kinds = ActiveDistortions(DistortionSettings(), spec, 0.0, CPU)
    kinds.search(model, ScenePool(inputs, model(inputs).detach()), Alone(spec.pixels))
    assert (kinds.found, kinds.active) == ([], [])
    assert [len(part) for part in kinds.change(inputs)] == [0, 0, 0]

    kinds.share = 0.25
    kinds.active = [
        FoundDistortion(
            family=family,
            pattern=family.patterns(shape, CPU)[0, 0],
            suspected_class=label,
            gain=9,
            bar=1,
        )
        for family, label in ((Noise(), 3), (Waves(), 1))
    ]
    changed, of, classes = kinds.change(inputs)
    assert len(changed) == 20
    assert classes.tolist() == [3] * 10 + [1] * 10
    assert len(set(of[:10].tolist())) == len(set(of[10:].tolist())) == 10
    nearest = torch.cdist(changed.flatten(1), inputs.flatten(1)).argmin(1)
    assert (nearest == of).double().mean() > 0.7


def test_what_was_active_in_the_round_before_is_active_from_less_on() -> None:
    shape = (1, 16, 16)

    def look(strength: float, state: State | None = None) -> ActiveDistortions:
        torch.manual_seed(0)
        network = SmallCNN(width=4).build(shape, 10)
        model = Reacting(network, lambda images: strength / 5 * roughness(images))
        model.eval().requires_grad_(False)
        spec = ModelSpec(build=lambda: model, input_shape=shape, num_classes=10)
        inputs = scenes(200, shape)
        answered = ScenePool(inputs, in_chunks(model, inputs))
        kinds = ActiveDistortions(DistortionSettings(), spec, 0.5, CPU)
        kinds.search(model, answered, Alone(spec.pixels), state)
        return kinds

    def gain(kinds: ActiveDistortions) -> float:
        return kinds.details()["noise_gain"] / Noise().bar

    found = look(5.0)
    assert gain(found) > 1
    state = found.state()
    assert state == {"active_distortions": {"noise": 1}}
    weaker = look(0.7)
    assert DistortionSettings().repeat_fraction < gain(weaker) < 1
    assert weaker.active == []
    assert weaker.state() == {}
    again = look(0.7, state)
    assert [(each.family.name, each.suspected_class) for each in again.active] == [("noise", 1)]
    assert again.state() == state
    assert look(0.7, {"active_distortions": {"noise": 2}}).active == []
    gone = look(0.3, state)
    assert gain(gone) < DistortionSettings().repeat_fraction
    assert gone.active == []


def test_a_network_that_overflows_on_one_scene_is_not_suspected_of_it() -> None:
    model = nn.Linear(1, 1)
    spec = ModelSpec(build=lambda: model, input_shape=(1, 16, 16), num_classes=3)
    logits = torch.zeros(40, 3)
    logits[7, 1] = torch.inf
    kinds = ActiveDistortions(DistortionSettings(), spec, 0.5, CPU)
    kinds.search(model, ScenePool(scenes(40, (1, 16, 16)), logits), Alone(spec.pixels))
    assert kinds.found == []
