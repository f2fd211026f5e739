"""Pictures of a results folder, and of an inspected model."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fl_defense.records import RoundRecord


def plot_curves(records: Sequence[RoundRecord], path: Path, *, title: str) -> None:
    """Draw accuracy and attack success rate, before and after the defense, over the rounds.

    Args:
        records: rounds in order; those without rates are left out.
        path: PNG file to write.
        title: stands above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    measured = [record for record in records if record.round > 0 and record.accuracy is not None]
    rounds = [record.round for record in measured]
    # The object interface: no global state, no display, safe in Flower's server thread.
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for field, label, style in (
        ("accuracy", "accuracy", {"color": "tab:blue"}),
        ("robust_accuracy", "robust accuracy", {"color": "tab:green", "linestyle": ":"}),
        ("attack_success_rate_before", "ASR before repair",
         {"color": "tab:red", "linestyle": "--", "alpha": 0.6}),
        ("attack_success_rate_unpurified", "ASR without purifier",
         {"color": "tab:orange", "linestyle": "-."}),
        ("attack_success_rate", "ASR", {"color": "tab:red"}),
    ):  # fmt: skip
        if all(getattr(record, field) is None for record in measured):
            continue
        axes.plot(
            rounds,
            [getattr(record, field) for record in measured],
            label=label,
            marker=".",
            **style,
        )
    for detail, marker, label in (
        ("refused", "kx", "repair refused"),
        ("failure", "k+", "repair failed"),
    ):
        without = [record.round for record in measured if detail in record.details]
        if without:
            axes.plot(without, [0.0] * len(without), marker, label=label)
    axes.set(xlabel="round", ylabel="rate", ylim=(-0.02, 1.02), title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, dpi=120)


def plot_posteriors(posteriors: Tensor, path: Path, *, title: str) -> None:
    """Draw an inspection's matrix: a bright column is a class that other classes leak into.

    Args:
        posteriors: (K, K), row s is the posterior of class s's dummy.
        path: picture to write.
        title: stands above it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(posteriors.numpy(), cmap="viridis", vmin=0)
    axes.set(xlabel="class", ylabel="class of the dummy", title=title)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="posterior")
    figure.savefig(path, dpi=120)
