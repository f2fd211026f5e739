"""The closed loop, measured: does the model that clients are sent stay clean, and who is named?

    python -m benchmarks.loop                                  every row that is not measured yet
    python -m benchmarks.loop --rows quickstart "quickstart, nobody attacks" --seeds 0 1 2

A row is a federation on the in-process engine whose clients train on what the loop makes: replies
are screened, the aggregate is repaired if the screen suspects it, and that model is sent out. Each
run is written at once to `results/loop.json`; rows that are there are not run again. The attack
goes on from the first to the last round. Rates are means over the last three rounds; replies count
from round 3 on.

Rows named small have 20,000 images instead of 60,000 and fewer rounds.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks import RESULTS
from benchmarks.rows import provenance, read, write
from fl_defense.rounds.records import RoundRecord
from simulations.federation.run import run_scenario
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.verdicts import left_out
from simulations.scenario.load import load_scenario

OUT = RESULTS / "loop.json"
QUICKSTART = "configs/scenarios/quickstart.yaml"
BADNETS = "configs/scenarios/fashion_mnist_badnets.yaml"
NONIID = "configs/scenarios/fashion_mnist_noniid.yaml"
SMALL = ["data.max-train=20000", "rounds=8"]
SCREEN = [
    "screens.name=attribution",
    "repair.broadcast=repaired",
    "repair.schedule={first-round: 2, on-suspicion: screens, last: false}",
]
NO_ATTACK = ["attack.name=none"]
UNDEFENDED = ["defense.name=none", "screens=[]"]
NO_REPAIR = "repair={}"
NO_SIDES = "screens.least-ratio=1000000"
ONCE = ["attack.poison-rate=0.5", "attack.boost=1"]

LATE = "repair.schedule={initial: true, first-round: 2, on-suspicion: screens, last: false}"
"""The model that the run begins with is repaired: a run without a defense left it backdoored."""


def _trigger(spec: str) -> str:
    return f"backdoor={{trigger: {spec}, target: 0}}"


ROWS: dict[str, tuple[str, list[str]]] = {
    "quickstart": (QUICKSTART, SCREEN),
    "quickstart, nobody attacks": (QUICKSTART, [*SCREEN, *NO_ATTACK]),
    "quickstart, undefended": (QUICKSTART, UNDEFENDED),
    "quickstart, undefended, nobody attacks": (QUICKSTART, [*UNDEFENDED, *NO_ATTACK]),
    "quickstart, never back": (QUICKSTART, [*SCREEN, "screens.rewind={most-kept: 0}"]),
    "quickstart, suspects not apart": (QUICKSTART, [*SCREEN, "screens.rule={least-apart: 0}"]),
    "quickstart, 100 rounds": (QUICKSTART, [*SCREEN, "rounds=100"]),
    "quickstart, late": (QUICKSTART, [*SCREEN, LATE]),
    "badnets": (BADNETS, SCREEN),
    "badnets, small": (BADNETS, [*SCREEN, *SMALL]),
    "badnets, small, nobody attacks": (BADNETS, [*SCREEN, *SMALL, *NO_ATTACK]),
    "badnets, small, undefended": (BADNETS, [*UNDEFENDED, *SMALL]),
    "badnets, small, undefended, nobody attacks": (BADNETS, [*UNDEFENDED, *SMALL, *NO_ATTACK]),
    "badnets, small, 10 of 100": (
        BADNETS,
        [*SCREEN, *SMALL, "rounds=24", "clients.count=100", "clients.per-round=10"],
    ),
    "badnets, small, boost 1": (BADNETS, [*SCREEN, *SMALL, *ONCE]),
    "badnets, small, 4 of 10": (BADNETS, [*SCREEN, *SMALL, "attack.malicious=0.4"]),
    "noniid, small": (NONIID, [*SCREEN, *SMALL]),
    "noniid, small, nobody attacks": (NONIID, [*SCREEN, *SMALL, *NO_ATTACK]),
    "noniid, small, undefended": (NONIID, [*UNDEFENDED, *SMALL]),
    "noniid, small, undefended, nobody attacks": (NONIID, [*UNDEFENDED, *SMALL, *NO_ATTACK]),
    "8x8, small": (BADNETS, [*SCREEN, *SMALL, _trigger("{name: patch, size: 8}")]),
    "blended, small": (BADNETS, [*SCREEN, *SMALL, *ONCE, _trigger("{name: blended}")]),
    "sinusoid 5.5, small": (
        BADNETS,
        [*SCREEN, *SMALL, *ONCE, _trigger("{name: sinusoid, frequency: 5.5}")],
    ),
    "blended, small, no sides": (
        BADNETS,
        [*SCREEN, *SMALL, *ONCE, _trigger("{name: blended}"), NO_SIDES],
    ),
    "sinusoid 5.5, small, no sides": (
        BADNETS,
        [*SCREEN, *SMALL, *ONCE, _trigger("{name: sinusoid, frequency: 5.5}"), NO_SIDES],
    ),
    "badnets, small, fedgame": (BADNETS, [*SCREEN, *SMALL, "screens.name=fedgame"]),
    "badnets, small, filterfl": (BADNETS, [*SCREEN, *SMALL, "screens.name=filterfl"]),
    "warped, small": (BADNETS, [*SCREEN, *SMALL, _trigger("{name: warped}")]),
    "group norm, small": (BADNETS, [*SCREEN, *SMALL, "model.norm=group"]),
    "no norm, small": (BADNETS, [*SCREEN, *SMALL, "model.norm=none"]),
}
"""Scenario and overrides by row."""
FIRST_COUNTED = 3
"""Replies are counted from this round on."""
RATES = ("accuracy", "attack_success_rate", "robust_accuracy")


def main() -> None:
    """Run what is not measured yet; write each run at once; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--again", action="store_true", help="also what is measured already")
    arguments = parser.parse_args()
    for row in arguments.rows:
        for seed in arguments.seeds:
            measured = any((run["row"], run["seed"]) == (row, seed) for run in load())
            if not measured or arguments.again:
                save(measure(row, seed))
    print(table(load()))  # noqa: T201


def load() -> list[dict[str, Any]]:
    """Return all runs that are measured."""
    found: list[dict[str, Any]] = read(OUT) or []
    return found


def save(run: dict[str, Any]) -> None:
    """Put a run among the others, in the place of an earlier one of the same row and seed."""
    others = [old for old in load() if (old["row"], old["seed"]) != (run["row"], run["seed"])]
    order = list(ROWS)
    runs = sorted([*others, run], key=lambda each: (order.index(each["row"]), each["seed"]))
    write(OUT, runs)


def measure(row: str, seed: int) -> dict[str, Any]:
    """Run a row with a seed."""
    path, overrides = ROWS[row]
    overrides = [*overrides, f"seed={seed}", "engine.name=in-process"]
    with tempfile.TemporaryDirectory() as folder:
        if LATE in overrides:
            before = Path(folder) / "undefended"
            run_scenario(load_scenario(Path(path), [*overrides, *UNDEFENDED, NO_REPAIR]), before)
            overrides.append(f"initial-model={before / 'model.safetensors'}")
        scenario = load_scenario(Path(path), overrides)
        result = run_scenario(scenario, Path(folder) / "run")
    identity = {"row": row, "seed": seed, "screens": repr(scenario.screens)}
    return identity | provenance() | summary(result.records)


def summary(rounds: Sequence[MeasuredRound]) -> dict[str, Any]:
    """Return what is told of a run, from its rounds."""
    trained = [measured for measured in rounds if measured.round > 0]
    counted = [measured for measured in trained if measured.round >= FIRST_COUNTED]
    counts = [_left_out(measured) for measured in counted]
    replied = [_num_replies(measured.record) for measured in counted]
    records = [measured.record for measured in trained]
    return {
        "last_three": {
            rate: fmean(_sent(measured, rate) for measured in trained[-3:]) for rate in RATES
        },
        "malicious_left_out": sum(count["malicious"] for count in counts),
        "malicious_replies": sum(len(measured.malicious) for measured in counted),
        "honest_left_out": sum(count["honest"] for count in counts),
        "honest_replies": sum(replied) - sum(len(measured.malicious) for measured in counted),
        "rounds_kept_sent": sum("kept_sent" in record.details for record in records),
        "rounds_gone_back": sum("sent_again" in record.details for record in records),
        "rounds_repaired": sum(record.accepted for record in records),
        "seconds": {
            "training": fmean(record.train_seconds for record in records),
            "screening": fmean(measured.record.screen_seconds for measured in counted),
        },
        "by_round": [
            {rate: _sent(measured, rate) for rate in RATES} | _left_out(measured)
            for measured in trained
        ],
    }


def _num_replies(record: RoundRecord) -> int:
    """Return how many replies passed the reply check, also where nothing was aggregated."""
    screens = record.details.get("screens")
    return len(screens[0]["verdicts"]) if screens else record.num_replies + record.num_left_out


def _sent(measured: MeasuredRound, metric: str) -> float:
    """Return a rate of the model that clients are sent next: the released one, or another."""
    rate = measured.rate("sent", metric)
    rate = measured.rate("released", metric) if rate is None else rate
    assert rate is not None
    return rate


def _left_out(measured: MeasuredRound) -> dict[str, int]:
    """Return how many malicious and honest replies were left out in a round."""
    clients = left_out(measured)
    malicious = len(clients & set(measured.malicious))
    return {"malicious": malicious, "honest": len(clients) - malicious}


def table(runs: list[dict[str, Any]]) -> str:
    """Return the markdown table: means over the seeds, ranges in brackets."""
    lines = [
        "| federation | seeds | accuracy | ASR | robust accuracy | malicious left out "
        "| honest left out | screening, share of training |",
        "|" + "---|" * 8,
    ]
    for row in dict.fromkeys(run["row"] for run in runs):
        alike = [run for run in runs if run["row"] == row]
        rates = [_spread([run["last_three"][rate] for run in alike]) for rate in RATES]
        seconds = [run["seconds"] for run in alike]
        share = sum(s["screening"] for s in seconds) / sum(s["training"] for s in seconds)
        cells = [
            row,
            ", ".join(str(run["seed"]) for run in alike),
            *rates,
            _share(alike, "malicious"),
            _share(alike, "honest"),
            f"{share:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    spread = f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def _share(runs: list[dict[str, Any]], kind: str) -> str:
    left_out = sum(run[f"{kind}_left_out"] for run in runs)
    replies = sum(run[f"{kind}_replies"] for run in runs)
    return f"{left_out} of {replies}" if replies else "–"


if __name__ == "__main__":
    main()
