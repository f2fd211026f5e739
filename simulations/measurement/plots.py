"""Pictures of a results folder, and of an inspected model."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fl_defense.atomic_write import replace_file
from fl_defense.inspections import Finding
from fl_defense.inspections.freeeagle import FreeEagleFinding
from fl_defense.inspections.trigger_search import TriggerFinding
from simulations.measurement.measured_round import STAGES, MeasuredRound
from simulations.metrics import Metric, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DPI = 150
"""Pixels per inch of the curves, which are 8 inches wide."""
PICTURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")
"""Of the files that a picture is written to."""
LINES: dict[str, dict[str, Any]] = {
    "aggregate": {"linestyle": "--", "alpha": 0.6},
    "released": {"linestyle": "-"},
    "unpurified": {"linestyle": "-."},
    "sent": {"linestyle": ":"},
}
"""How the curves of a stage look."""


def plot_curves(
    rounds: Sequence[MeasuredRound], path: Path, *, title: str, metrics: Sequence[Metric] = ()
) -> None:
    """Draw the rates that metrics want drawn over the rounds.

    Args:
        rounds: in order; those without rates are left out.
        path: PNG file to write.
        title: stands above the picture.
        metrics: what was measured beside the standard ones.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [each for each in rounds if each.round > 0 and each.rates]
    # The object interface: no global state, no display, safe in Flower's server thread.
    figure = Figure(figsize=(8, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for metric, stage, label in drawn_curves(drawn, metrics):
        points = [(each.round, each.rate(stage, metric.name)) for each in drawn]
        axes.plot(*zip(*points, strict=True), label=label, marker=".",
                  color=metric.color, **LINES[stage])  # fmt: skip
    for detail, marker, label in (
        ("refused", "kx", "repair refused"),
        ("failure", "k+", "repair failed"),
    ):
        without = [each.round for each in drawn if detail in each.record.details]
        if without:
            axes.plot(without, [0.0] * len(without), marker, label=label)
    axes.set(xlabel="round", ylabel="share of test images", ylim=(-0.02, 1.02), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path, dpi=DPI)


def drawn_curves(
    rounds: Sequence[MeasuredRound], metrics: Sequence[Metric] = ()
) -> list[tuple[Metric, str, str]]:
    """Return metric, stage and label of each curve that some round has a rate for."""
    return [
        (metric, stage, f"{metric.title} {STAGES[stage]}" if len(metric.in_picture) > 1
         else metric.title)
        for name, metric in measured(metrics).items()
        for stage in metric.in_picture
        if any(each.rate(stage, name) is not None for each in rounds)
    ]  # fmt: skip


def plot_found(
    found: Finding, input_shape: tuple[int, int, int], path: Path, *, title: str
) -> None:
    """Draw what an inspection found: a patch at its place, or FreeEagle's matrix.

    Args:
        found: of an inspection.
        input_shape: channels, height, width of the model's images.
        path: picture to write.
        title: stands above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title)
    if isinstance(found, TriggerFinding):
        _draw_trigger(axes, found, input_shape)
    elif isinstance(found, FreeEagleFinding):
        _draw_posteriors(axes, found.posteriors)
    _save(figure, path, dpi=120)


def _save(figure: "Figure", path: Path, *, dpi: int) -> None:
    content = io.BytesIO()
    figure.savefig(content, dpi=dpi, format=path.suffix.removeprefix(".").lower())
    replace_file(path, content.getvalue())


def _draw_trigger(axes: "Axes", found: TriggerFinding, input_shape: tuple[int, int, int]) -> None:
    """On a grey image: a patch as it is, or lighter and darker where a whole image is changed."""
    (row, column), (_, height, width) = found.place, found.patch.shape
    image = torch.full(input_shape, 0.5)
    shown = found.patch if found.kind == "patch" else 0.5 + found.patch / 2
    image[:, row : row + height, column : column + width] = shown
    shown = image.clamp(0, 1).permute(1, 2, 0)
    # Other numbers of channels than one and three have no colors of their own.
    shown = shown if input_shape[0] == 3 else shown.mean(2)
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xlabel=f"lifts class {found.suspected_class} by {found.anomaly:.1f}")


def _draw_posteriors(axes: "Axes", posteriors: Tensor) -> None:
    """A bright column is a class that the other classes' dummies leak into."""
    from matplotlib.ticker import MaxNLocator

    image = axes.imshow(posteriors.numpy(), cmap="viridis", vmin=0)
    axes.set(xlabel="class", ylabel="class of the dummy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    axes.figure.colorbar(image, label="posterior")
