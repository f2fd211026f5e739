"""Attacks: what malicious clients do. An attack is one file and one line in the table.

`base` is the contract, `malicious_clients` says who attacks when, `data_poisoning` stamps and
relabels images, `context` holds what an attacker knows. Those in the last group of the table know
this project's defenses, and are tests of them.
"""

from simulations.attack.a3fl import A3FL
from simulations.attack.alie import ALIE
from simulations.attack.backdoor import Backdoor
from simulations.attack.badnets import BadNets
from simulations.attack.base import Attack
from simulations.attack.clean_label import CleanLabel
from simulations.attack.constrain_and_scale import ConstrainAndScale
from simulations.attack.dba import DBA
from simulations.attack.dba_single_shot import DBASingleShot
from simulations.attack.fcba import FCBA
from simulations.attack.framing import Framing
from simulations.attack.gaussian_noise import GaussianNoise
from simulations.attack.iba import IBA
from simulations.attack.ipm import IPM
from simulations.attack.layer_poisoning import LayerPoisoning
from simulations.attack.model_replacement import ModelReplacement
from simulations.attack.neurotoxin import Neurotoxin
from simulations.attack.none import NoAttack
from simulations.attack.pgd import PGD
from simulations.attack.repair_aware import RepairAware
from simulations.attack.scene_aware import SceneAware
from simulations.attack.sign_flip import SignFlip

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    # backdoors by data alone
    "badnets": BadNets,
    "clean-label": CleanLabel,
    "dba": DBA,
    "fcba": FCBA,
    # backdoors by training and update
    "model-replacement": ModelReplacement,
    "constrain-and-scale": ConstrainAndScale,
    "dba-single-shot": DBASingleShot,
    "pgd": PGD,
    "neurotoxin": Neurotoxin,
    "layer-poisoning": LayerPoisoning,
    "a3fl": A3FL,
    "iba": IBA,
    # untargeted: they ruin the model and plant nothing
    "sign-flip": SignFlip,
    "gaussian-noise": GaussianNoise,
    "alie": ALIE,
    "ipm": IPM,
    # by somebody who knows this project's defenses
    "scene-aware": SceneAware,
    "repair-aware": RepairAware,
    "framing": Framing,
}
"""Attacks by the name that a scenario gives."""

__all__ = ["ATTACKS", "Attack", "Backdoor", "BadNets", "NoAttack"]
