"""Writes the README's table of results from the JSON files in benchmarks/results.

    python -m benchmarks.readme

The commands that measured the figures stand in docs/results.md and in each benchmark.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.rows import results_of
from fl_defense.atomic_write import replace_file

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = "| what | seeds | accuracy | ASR | robust accuracy | left out: malicious, honest |"
RATES = ("accuracy", "attack_success_rate", "robust_accuracy")
REPAIRED = (
    ("fashion-mnist", "patch", "dhbe"),
    ("fashion-mnist", "patch", "deep-sanitizer"),
    ("fashion-mnist", "patch-8x8", "dhbe"),
    ("cifar10", "patch", "dhbe"),
    ("gtsrb", "patch", "dhbe"),
)
"""Data, trigger and defense of the single models that are shown."""

LEFT_TO_RESULTS = (
    "quickstart, suspects not apart",
    "quickstart, never back",
    "noniid, small, undefended",
    "noniid, small, undefended, nobody attacks",
    "quickstart, undefended, nobody attacks",
    "badnets, small, boost 1",
    "badnets, small, 4 of 10",
    "8x8, small",
    "blended, small, no sides",
    "sinusoid 5.5, small, no sides",
    "badnets, small, fedgame",
    "badnets, small, filterfl",
    "group norm, small",
)
"""Rows of the loop that stand in docs/results.md alone."""


def main() -> None:
    """Replace the table in the README."""
    table = "\n".join([HEAD, "|" + "---|" * 6, *federations(), *single_models()])
    text = README.read_text(encoding="utf-8")
    replace_file(README, (BLOCK.sub(rf"\g<1>{table}\n\g<2>", text)).encode())


def federations() -> Iterator[str]:
    """Yield the rows of federations: undefended, repaired at release, and with the loop."""
    digits = results_of("digits_repair_only")
    for variant, name in (
        ("undefended", "digits, attacked, no defense"),
        ("defended", "digits, attacked, DHBE alone, released model"),
    ):
        runs = digits[variant]
        rates = [run["last_three_rounds"]["released"] for run in runs]
        yield line(name, [run["seed"] for run in runs], rates)
    runs = results_of("loop")
    for row in dict.fromkeys(run["row"] for run in runs if run["row"] not in LEFT_TO_RESULTS):
        alike = [run for run in runs if run["row"] == row]
        out = {
            name: sum(run[name] for run in alike)
            for name in (
                "malicious_left_out", "malicious_replies", "honest_left_out", "honest_replies",
            )
        }  # fmt: skip
        left_out = (
            f"{out['malicious_left_out']} of {out['malicious_replies']}, "
            f"{out['honest_left_out']} of {out['honest_replies']}"
        )
        if ", undefended" in row:
            name, left_out = row.replace("undefended", "no defense"), "–"
        else:
            name = f"the loop: {row}"
        rates = [run["last_three"] for run in alike]
        yield line(name, [run["seed"] for run in alike], rates, left_out)


def single_models() -> Iterator[str]:
    """Yield the rows of repaired models, each with the model before."""
    rows = results_of("repair")
    for data, trigger, defense in REPAIRED:
        found = [
            row
            for row in rows
            if (row["data"], row["trigger"], row["sanitizer"]) == (data, trigger, defense)
        ]
        if not found:
            continue
        found.sort(key=lambda row: row["seed"])
        before, after = ([row[stage] for row in found] for stage in ("before", "after"))
        yield line(
            f"{data}, {trigger}, `{defense}`", [row["seed"] for row in found], after, before=before
        )


def line(
    name: str,
    seeds: Sequence[int],
    rates: Sequence[dict[str, Any]],
    left_out: str = "–",
    before: Sequence[dict[str, Any]] = (),
) -> str:
    """Return a row: means, with the range behind them where there are several seeds."""
    cells = [name, ", ".join(map(str, seeds))]
    for rate in RATES:
        mean = f"{fmean(each[rate] for each in before):.3f} → " if before else ""
        cells.append(mean + spread([each[rate] for each in rates]))
    return "| " + " | ".join([*cells, left_out]) + " |"


def spread(values: Sequence[float]) -> str:
    """Return a mean, with its range if there are several values."""
    mean = f"{fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    main()
