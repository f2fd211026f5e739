from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fl_defense.rounds.schedule import Schedule
from fl_defense.sanitizers import BCU, CLP, DHBE, SANITIZERS, NoDefense, Pipeline
from simulations.aggregators import FedAvg, MultiKrum
from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.none import NoAttack
from simulations.attack.triggers.patch import Patch
from simulations.attack.triggers.sinusoid import Sinusoid
from simulations.attack.triggers.warped import Warped
from simulations.data import Digits, Dirichlet
from simulations.engines import InProcessEngine, ProcessesEngine
from simulations.metrics import BalancedAccuracy, WorstClassAccuracy
from simulations.models.resnet import ResNet
from simulations.scenario import ConfigError
from simulations.scenario.imports import Factory
from simulations.scenario.load import load_scenario, scenario_schema
from simulations.scenario.scenario import Scenario

FULL = """
name: full
seed: 3
rounds: 4
data: {name: digits, max-train: 200}
partition: {name: dirichlet, alpha: 0.3, min-size: 5}
model: {name: resnet, depth: 10, width: 8}
clients: {count: 9, per-round: 8}
training: {epochs: 2, learning-rate: 1e-2}
aggregator: {name: multikrum, num-malicious: 2}
backdoor:
  trigger: {name: patch, size: 2, position: [1, 2], color: [0.5]}
  target: 7
attack: {name: badnets, malicious: [0, 4], first-round: 2}
defense: {name: dhbe, iterations: 7}
repair: {schedule: {first-round: 2, every: 3}, broadcast: aggregate}
engine: {name: in-process}
"""


def load(text: str, tmp_path: Path, *overrides: str) -> Scenario:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return load_scenario(path, overrides)


def faults_of(text: str, tmp_path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path, *overrides)
    prefix = f"{tmp_path / 'scenario.yaml'}: "
    return [fault.removeprefix(prefix) for fault in caught.value.faults]


def test_every_part_becomes_its_dataclass(tmp_path: Path) -> None:
    scenario = load(FULL, tmp_path)
    assert scenario.partition == Dirichlet(alpha=0.3, min_size=5)
    assert scenario.model == ResNet(depth=10, width=8)
    assert scenario.training.learning_rate == 0.01
    assert scenario.aggregator == MultiKrum(num_malicious=2)
    assert scenario.backdoors[0].trigger == Patch(size=2, position=(1, 2), color=(0.5,))
    assert scenario.backdoors[0].target == 7
    assert scenario.attack == BadNets(malicious=(0, 4), first_round=2)
    assert scenario.defense == DHBE(iterations=7)
    assert scenario.repair.schedule == Schedule(first_round=2, every=3)
    assert scenario.engine == InProcessEngine()
    assert scenario.num_replies == 8


@pytest.mark.parametrize(
    ("text", "backdoor"),
    [
        ("{trigger: {name: warped, strength: 2}}", Backdoor(trigger=Warped(strength=2))),
        ("{target: next-class}", Backdoor(target="next-class")),
        ("{target: 3, sources: [1, 2]}", Backdoor(target=3, sources=(1, 2))),
    ],
)
def test_a_backdoor_may_have_any_trigger_and_label_mode(
    text: str, backdoor: Backdoor, tmp_path: Path
) -> None:
    scenario = load(f"name: x\nbackdoor: {text}", tmp_path)
    assert scenario.backdoors == (backdoor,)
    assert load(scenario.to_yaml(), tmp_path) == scenario


def test_there_may_be_several_backdoors(tmp_path: Path) -> None:
    text = "name: x\nbackdoor: [{target: 1}, {trigger: {name: sinusoid}, target: 2}]"
    scenario = load(text, tmp_path)
    assert scenario.backdoors == (Backdoor(target=1), Backdoor(trigger=Sinusoid(), target=2))
    assert load(scenario.to_yaml(), tmp_path) == scenario
    assert faults_of(f"{text[:-1]}, {{target: 10}}]", tmp_path) == [
        "backdoor.2.target: must be a class in 0..9, got 10; choose one of the data set's classes"
    ]
    (fault,) = faults_of(text.replace("{target: 1}", "{tarket: 1}"), tmp_path)
    assert fault == (
        "backdoor.0.tarket: unknown key; did you mean 'target'?; known: trigger, target, sources"
    )
    assert "at least 1 item" in faults_of("name: x\nbackdoor: []", tmp_path)[0]


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    scenario = load("name: x", tmp_path)
    assert isinstance(scenario.defense, NoDefense)
    assert isinstance(scenario.attack, NoAttack)
    assert isinstance(scenario.aggregator, FedAvg)
    assert scenario.engine == ProcessesEngine()


@pytest.mark.parametrize(
    "text", [FULL, "name: x", "name: x\nmodel: {name: 'torchvision.models:vgg11'}"]
)
def test_the_resolved_file_reads_into_the_same_scenario(text: str, tmp_path: Path) -> None:
    scenario = load(text, tmp_path)
    again = load(scenario.to_yaml(), tmp_path)
    assert again == scenario
    resolved = yaml.safe_load(scenario.to_yaml())
    assert resolved["repair"]["min-agreement"] == scenario.repair.min_agreement


def test_a_preset_is_the_base_of_the_given_fields(tmp_path: Path) -> None:
    text = "name: x\ndefense: {name: dhbe, preset: faithful, iterations: 9}"
    defense = load(text, tmp_path).defense
    assert isinstance(defense, DHBE)
    assert (defense.iterations, defense.batch_size, defense.student_lr) == (9, 256, 0.1)


def test_a_preset_is_the_base_inside_nested_settings_too(tmp_path: Path) -> None:
    text = "name: x\ndefense: {name: dhbe, preset: faithful, generators: {width: 4}}"
    scenario = load(text, tmp_path)
    faithful = DHBE.faithful()
    generators = replace(faithful.generators, width=4)
    assert scenario.defense == replace(faithful, generators=generators)
    again = load(text, tmp_path, "defense.generators.latent-size=8")
    assert again.defense == replace(faithful, generators=replace(generators, latent_size=8))
    assert faults_of("name: x\ndefense: {name: dhbe, preset: faithful, generators: {widt: 4}}",
                     tmp_path)[0].startswith("defense.generators.widt: unknown key")  # fmt: skip


def test_metrics_are_chosen_beside_those_that_every_run_has(tmp_path: Path) -> None:
    one = load("name: x\nmetrics: {name: balanced-accuracy}", tmp_path)
    assert one.metrics == (BalancedAccuracy(),)
    both = "name: x\nmetrics: [{name: balanced-accuracy}, {name: worst-class-accuracy}]"
    assert load(both, tmp_path).metrics == (BalancedAccuracy(), WorstClassAccuracy())
    (fault,) = faults_of("name: x\nmetrics: {name: balance-accuracy}", tmp_path)
    assert fault.startswith("metrics: 'balance-accuracy' is not one of accuracy, ")
    (fault,) = faults_of("name: x\nmetrics: {name: 'tests.outside:AccuracyOfOurs'}", tmp_path)
    assert fault == "metrics: AccuracyOfOurs is called 'accuracy' like another; rename it"


def test_a_model_may_be_anybodys(tmp_path: Path) -> None:
    text = "name: x\nmodel: {name: 'torchvision.models:resnet18', arguments: {norm_layer: null}}"
    scenario = load(text, tmp_path)
    assert scenario.model == Factory(
        path="torchvision.models:resnet18", arguments={"norm_layer": None}
    )


def test_overrides_reach_any_field(tmp_path: Path) -> None:
    scenario = load(
        FULL, tmp_path, "seed=11", "training.epochs=5", "backdoor.trigger.size=4",
        "repair.schedule.every=null", "attack.malicious=[1]", "data.max-test=20",
    )  # fmt: skip
    assert scenario.seed == 11
    assert scenario.training.epochs == 5
    assert scenario.backdoors[0].trigger == Patch(size=4, position=(1, 2), color=(0.5,))
    assert scenario.repair.schedule.every is None
    assert scenario.malicious_clients == (1,)


def test_another_name_drops_the_fields_of_the_part_that_it_replaces(tmp_path: Path) -> None:
    scenario = load(FULL, tmp_path, "attack.name=none", "defense.name=none", "engine.name=ray")
    assert (scenario.attack, scenario.defense) == (NoAttack(), NoDefense())
    assert load(FULL, tmp_path, "defense.name=dhbe").defense == DHBE(iterations=7)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("sed: 3", "sed: unknown key; did you mean 'seed'?"),
        ("defense: {name: dhbe, iteration: 3}", "defense.iteration: unknown key; did you mean 'iterations'?"),
        ("training: {epoch: 3}", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("backdoor: {trigger: {name: patch, sise: 1}}", "backdoor.trigger.sise: unknown key; did you mean 'size'?"),
        ("rounds: many", "rounds: input should be a valid integer, unable to parse string as an integer, got 'many'"),
        ("rounds: 0", "rounds: input should be greater than or equal to 1, got 0"),
        ("defense: {name: dhb}", f"defense: 'dhb' is not one of {', '.join(SANITIZERS)}, package.module:Class; did you mean 'dhbe'?"),
        ("defense: dhbe", "defense: must be a mapping with a name, got 'dhbe'"),
        ("defense: {name: dhbe, preset: fast}", "defense: preset: 'fast' is not one of per-round, faithful"),
        ("defense: {name: dhbe, scene-share: 2}", "defense: scene_share must be in [0, 1], got 2.0"),
        ("data: {name: imagenet}", "data: 'imagenet' is not one of digits, fashion-mnist, emnist, cifar10, cifar100, gtsrb, tiny-imagenet, image-folder, package.module:Class; did you mean 'tiny-imagenet'?"),
        ("data: {name: image-folder}", "data.root: is missing; add it"),
        ("data: {name: image-folder, root: /nowhere}", "data: /nowhere/train: no such folder; image-folder needs /nowhere/train and /nowhere/test with one folder per class"),
        ("model: {name: resnet, depth: 12}", "model.depth: input should be 10 or 18, got 12"),
        ("model: {name: 'nowhere:net'}", "model: cannot import 'nowhere:net' (No module named 'nowhere'); write package.module:name, and put the folder in which the package lies on PYTHONPATH if it is not installed"),
        ("attack: {name: badnets, malicious: 0.01}", "attack.malicious: 0.01 of 10 clients makes nobody malicious; choose at least one and not all, or attack name none"),
        ("attack: {name: badnets, malicious: 0.99}", "attack.malicious: 0.99 of 10 clients makes everybody malicious; choose at least one and not all, or attack name none"),
        ("backdoor: {target: 10}", "backdoor.target: must be a class in 0..9, got 10; choose one of the data set's classes"),
        ("backdoor: {sources: [1, 10, 12]}", "backdoor.sources: must be a class in 0..9, got 10, 12; choose one of the data set's classes"),
        ("backdoor: {sources: [0, 1]}", "backdoor: sources must not hold the target 0"),
        ("backdoor: {trigger: {name: warped, grid-size: 20}}", "backdoor.trigger: grid-size 20 is finer than a 16x16 image; lower it"),
        ("backdoor: {trigger: {name: blended, opacity: 2}}", "backdoor.trigger: opacity must be in (0, 1], got 2.0"),
        ("backdoor: {trigger: {name: patch, size: 30}}", "backdoor.trigger: size 30 at row -15, column -15 leaves a 16x16 image; choose a smaller size or margin, or another position"),
        ("aggregator: {name: bulyan, num-malicious: 2}", "aggregator: num-malicious 2 needs at least 11 replies a round (n >= 4f + 3), got 10; lower it or ask more clients"),
        ("aggregator: {name: krum, num-malicious: 4}", "aggregator: num-malicious 4 needs at least 11 replies a round (n > 2f + 2), got 10; lower it or ask more clients"),
        ("clients: {count: 3, per-round: 4}", "clients.per-round: must be at most the count of 3, got 4; lower it"),
        ("clients: {count: 2}\nscreens: {name: flame}", "screens.least-replies: FLAME compares at least 3 replies, and a round has 2; ask more clients or take another screen"),
        ("repair: {schedule: {every: 0}}", "repair.schedule: every must be at least 1 or null, got 0"),
        ("repair: {inspect-at: '99'}", "repair.inspect-at: the model has no submodule '99'; possible: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
    ],
)  # fmt: skip
def test_a_fault_is_one_line(line: str, fault: str, tmp_path: Path) -> None:
    (found,) = faults_of(f"name: x\n{line}", tmp_path)
    assert found.split("; known: ")[0] == fault
    assert "\n" not in found


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    text = "name: x\nrounds: 0\nclients: {count: 0}\ndefense: {name: dhbe, iterations: 0}\nwhat: 1"
    found = faults_of(text, tmp_path)
    assert [fault.split(":")[0] for fault in found] == [
        "rounds", "clients.count", "defense", "what",
    ]  # fmt: skip
    mixed = faults_of(
        "name: x\nseed: -1\nattack: {name: badnets, malicious: 0.01}\nbackdoor: {target: 99}",
        tmp_path,
    )
    assert [fault.split(":")[0] for fault in mixed] == [
        "seed", "backdoor.target", "attack.malicious",
    ]  # fmt: skip
    misfits = faults_of(
        "name: x\nbackdoor: {target: 99}\naggregator: {name: krum, num-malicious: 9}", tmp_path
    )
    assert [fault.split(":")[0] for fault in misfits] == ["backdoor.target", "aggregator"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "must be a mapping, got list"), ("", "must be a mapping")],
)
def test_what_is_no_scenario_is_refused(text: str, message: str, tmp_path: Path) -> None:
    assert message in faults_of(text, tmp_path)[0]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        load_scenario(tmp_path / "none.yaml")


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", "seed=["])
def test_a_malformed_override_is_refused(override: str, tmp_path: Path) -> None:
    assert faults_of(FULL, tmp_path, override)[0].startswith("--set")


def test_a_scenario_is_frozen_and_can_be_built_in_python() -> None:
    scenario = Scenario(name="x", defense=DHBE(iterations=3), data=Digits(max_train=50))
    assert scenario.defense == DHBE(iterations=3)
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 4  # type: ignore[misc]


def test_schema_knows_every_name_and_sentence() -> None:
    schema = str(scenario_schema())
    for known in ("dhbe", "badnets", "fashion-mnist", "multikrum", "scene-share", "in-process"):
        assert f"'{known}'" in schema
    assert "Share of the clients, drawn from the seed" in schema


def read(defense: str, tmp_path: Path, *settings: str) -> Scenario:
    path = tmp_path / "x.yaml"
    path.write_text(f"name: x\ndefense: {defense}")
    return load_scenario(path, settings)


def test_a_list_of_defenses_runs_in_order_and_is_written_back(tmp_path: Path) -> None:
    scenario = read("[{name: clp, threshold: 2}, {name: dhbe, preset: faithful, iterations: 7}]",
                    tmp_path)  # fmt: skip
    assert scenario.defense == Pipeline(
        steps=(CLP(threshold=2), DHBE(**{**vars(DHBE.faithful()), "iterations": 7}))
    )
    assert Scenario.model_validate(yaml.safe_load(scenario.to_yaml())) == scenario


def test_set_reaches_into_a_list(tmp_path: Path) -> None:
    two = "[{name: clp}, {name: dhbe}]"
    assert read(two, tmp_path, "defense.0.threshold=2").defense == Pipeline(
        steps=(CLP(threshold=2), DHBE())
    )
    assert read(two, tmp_path, "defense.1={name: clp}").defense == Pipeline(steps=(CLP(), CLP()))
    assert read(two, tmp_path, "defense.name=none").defense == NoDefense()


@pytest.mark.parametrize(
    ("setting", "place", "got"),
    [
        ("backdoor.target=3", "backdoor", "'target'"),
        ("backdoor.trigger.size=2", "backdoor", "'trigger'"),
        ("backdoor.trigger.name=blended", "backdoor", "'trigger'"),
        ("backdoor.2.target=3", "backdoor", "'2'"),
        ("defense.threshold=3", "defense", "'threshold'"),
        ("backdoor.1.trigger.color.red=0.5", "backdoor.1.trigger.color", "'red'"),
    ],
)
def test_set_never_drops_a_list_for_one_field(
    setting: str, place: str, got: str, tmp_path: Path
) -> None:
    text = "name: x\ndefense: [{name: clp}, {name: dhbe}]\n"
    text += "backdoor: [{target: 1}, {target: 2, trigger: {name: patch, color: [0.1, 0.2]}}]"
    assert faults_of(text, tmp_path, setting) == [
        f"--set {setting.split('=')[0]}: {place} is a list, got {got}; "
        f"name an index in 0..1, e.g. {place}.0"
    ]


@pytest.mark.parametrize(
    ("defense", "faults"),
    [
        ("[{name: clp, treshold: 2}, {name: dhbe, iterations: 0}]",
         ["defense.0.treshold: unknown key; did you mean 'threshold'?; known: name, threshold",
          "defense.1: iterations must be at least 1, got 0"]),
        ("[{name: none}, {name: clp}]",
         ["defense: steps that change the model must come before those that do not, got NoDefense "
          "before CLP; swap them"]),
        ("[clp]", ["defense.0: must be a mapping with a name, got 'clp'"]),
        ("{name: bcu, surrogate: {name: folder}}", ["defense.surrogate.root: is missing; add it"]),
        ("{name: bcu, surrogate: {name: digits}}",
         ["defense.surrogate: is the clients' own data; name another source of images"]),
    ],
)  # fmt: skip
def test_faults_in_defenses_are_named(defense: str, faults: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(defense, tmp_path)
    assert caught.value.faults == [f"{tmp_path / 'x.yaml'}: {fault}" for fault in faults]


def test_another_data_set_may_be_the_surrogate(tmp_path: Path) -> None:
    defense = read("{name: bcu, surrogate: {name: digits}}", tmp_path,
                   "data.name=fashion-mnist").defense  # fmt: skip
    assert defense == BCU(surrogate=Digits())
    assert BCU(surrogate=Digits()).surrogate.draw(5, (3, 9, 8)).shape == (5, 3, 9, 8)


OWN_DATA = "defense.surrogate: is the clients' own data; name another source of images"
FASHION, GTSRB = "{name: fashion-mnist}", "{name: gtsrb}"
PICTURES = "{name: image-folder, root: pictures/mine}"


@pytest.mark.parametrize(
    ("data", "surrogate", "same"),
    [
        (FASHION, "{name: fashion-mnist, root: elsewhere}", True),
        (GTSRB, "{name: gtsrb, root: elsewhere}", True),
        (GTSRB, "{name: folder, root: data/gtsrb/GTSRB/Final_Test}", True),
        (GTSRB, "{name: folder, root: data/others}", False),
        (PICTURES, "{name: image-folder, root: ./pictures/../pictures/mine/}", True),
        (PICTURES, "{name: image-folder, root: link}", True),
        (PICTURES, "{name: folder, root: pictures/mine}", True),
        (PICTURES, "{name: folder, root: pictures/mine/train}", True),
        (PICTURES, "{name: folder, root: pictures}", True),
        (PICTURES, "{name: folder, root: pictures/mine-not}", False),
        (PICTURES, "{name: image-folder, root: pictures/others}", False),
        (PICTURES, "{name: fashion-mnist, root: pictures/mine}", False),
    ],
)
def test_the_clients_own_data_are_no_surrogate_wherever_they_are_named(
    data: str, surrogate: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("a", "b"):
        (tmp_path / "pictures" / "mine" / "train" / kind).mkdir(parents=True)
    (tmp_path / "link").symlink_to("pictures/mine")
    text = f"name: x\ndata: {data}\nbackdoor: {{target: 1}}\n"
    text += f"defense: {{name: bcu, surrogate: {surrogate}}}"
    if same:
        assert faults_of(text, tmp_path) == [OWN_DATA]
    else:
        assert load(text, tmp_path)
