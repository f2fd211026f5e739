"""What `benchmarks.gpu` measures: each section yields rows, of figures and what they belong to.

Loads torch and this repository's methods alone: no Flower, Ray, torchvision or pydantic.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.defenses import SANITIZERS, changed
from benchmarks.device_bench import Bench, Row
from benchmarks.device_training import compiled, processes, stacked, training
from fl_defense.inspections import TriggerSearch
from fl_defense.model.spec import ModelSpec
from fl_defense.sanitizers import Sanitizer, apply_sanitizer
from fl_defense.screens import Attribution, Reply, Screen, ScreenedRound, Verdict
from fl_defense.search.difference import DifferenceSearch


def repair(bench: Bench) -> Iterator[Row]:
    """Repairs by batch size and precision; larger batches take fewer steps: as many images."""
    spec, scale = bench.spec(), bench.scale
    for name, steps in (("dhbe", "iterations"), ("deep-sanitizer", "steps")):
        usual = scale.repair_steps or getattr(SANITIZERS[name], steps)
        for batch_size in scale.repair_batches:
            num = max(1, usual * scale.repair_batches[0] // batch_size)
            for precision in ("float32", "bfloat16"):
                how = {"batch_size": batch_size, "precision": precision, steps: num}
                asked = changed(SANITIZERS[name], **how)
                yield {"what": name} | how | _repaired(bench, asked, spec)


def _repaired(bench: Bench, sanitizer: Sanitizer, spec: ModelSpec) -> Row:
    """Return what a repair of a network with random weights takes."""
    suspect = bench.network(spec).eval()
    return bench.time(lambda: apply_sanitizer(sanitizer, suspect, spec))


def screening(bench: Bench) -> Iterator[Row]:
    """Attribution of a round's replies, by the images in one pass; and an inspection."""
    spec = bench.spec()
    sent = bench.network(spec).cpu().state_dict()
    replies = [Reply(node=node, arrays=_near(sent), num_examples=100.0)
               for node in range(1, bench.scale.replies + 1)]  # fmt: skip
    shown = ScreenedRound(number=2, sent=sent, replies=replies)
    for at_once in bench.scale.searched_at_once:
        screen: Screen = Attribution(search=DifferenceSearch(images_at_once=at_once))
        said: list[Verdict] = []

        def judge(screen: Screen = screen, said: list[Verdict] = said) -> None:
            torch.manual_seed(0)
            said.extend(screen.screen(shown, spec, device=bench.device).verdicts)

        row = {"what": "attribution", "images_at_once": at_once, "replies": len(replies)}
        row |= bench.time(judge)
        yield row | {"left_out": sum(each.weight == 0 for each in said)}
    suspect = bench.network(spec).eval()
    yield {"what": "trigger-search"} | bench.time(lambda: TriggerSearch().inspect(suspect, spec))


def _near(sent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a reply: weights a hundredth of their spread away from those sent."""
    return {
        name: value + 0.01 * value.std(correction=0) * torch.randn_like(value)
        if value.is_floating_point()
        else value.clone()
        for name, value in sent.items()
    }


def faithful(bench: Bench) -> Iterator[Row]:
    """A few iterations of the paper's DHBE, and what its full number would take."""
    spec, scale, paper = bench.spec(), bench.scale, SANITIZERS["dhbe-faithful"]
    full: int = paper.iterations  # type: ignore[attr-defined]
    for precision in ("float32", "bfloat16"):

        def run(iterations: int, precision: str = precision) -> Row:
            return _repaired(
                bench,
                changed(
                    paper,
                    iterations=iterations,
                    precision=precision,
                    batch_size=scale.faithful_batch,
                ),
                spec,
            )

        run(1)  # what is done once, at first use
        each = run(2)["seconds"] / 2
        num = max(1, min(scale.faithful_iterations, int(scale.faithful_seconds / each)))
        row = run(num)
        hours = row["seconds"] / num * full / 3600
        yield {"precision": precision, "iterations": num, "of": full, "full_hours": hours} | row


SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Row]], float]] = {
    "training": (training, 70),
    "stacked": (stacked, 35),
    "repair": (repair, 120),
    "screening": (screening, 50),
    "faithful": (faithful, 75),
    "processes": (processes, 70),
    "compiled": (compiled, 55),
}
"""Each section with the seconds after which it is ended; all of them: below eight minutes."""
