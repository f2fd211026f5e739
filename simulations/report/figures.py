"""Figures of a report that one can point at: curves and seconds, drawn by plotly."""

from collections.abc import Sequence
from itertools import groupby

import plotly.graph_objects as go
import torch
from matplotlib.colors import to_hex
from plotly.subplots import make_subplots

from simulations.measurement.comparison import Comparison
from simulations.measurement.confusion import Confusion, Matrix
from simulations.measurement.measured_round import STAGES, MeasuredRound
from simulations.metrics import metrics_named

DASHES = {"aggregate": "dash", "released": "solid", "unpurified": "dashdot", "sent": "dot"}
ATTACK = "rgba(214, 39, 40, 0.10)"
"""Behind the rounds in which somebody attacked."""
PHASES = {
    "training": "#7f7f7f",
    "screening": "#9467bd",
    "inspection": "#17becf",
    "repair": "#1f77b4",
    "verification": "#aec7e8",
    "evaluation": "#c7c7c7",
}


def curves(rounds: Sequence[MeasuredRound], *, repairs: bool = True) -> go.Figure:
    """Return accuracy, ASR and robust accuracy of every stage; the rest is behind the legend.

    Rounds of attack are shaded; repairs, and rounds that took no reply, are marked at the top.

    Args:
        rounds: all of a run.
        repairs: whether there is a defense, whose repairs are marked.
    """
    figure = go.Figure()
    measured = [each for each in rounds if each.rates]
    names = (name for each in measured for rates in each.rates.values() for name in rates)
    is_alone = _is_unchanged(measured)
    stages = [stage for stage in STAGES if stage != "aggregate" or not is_alone]
    for name, metric in metrics_named(names).items():
        for stage in stages:
            points = [(each.round, each.rate(stage, name)) for each in measured]
            points = [point for point in points if point[1] is not None]
            if not metric.column or not points or _repeats(measured, stage, name):
                continue
            x, y = zip(*points, strict=True)
            drawn = stage in metric.in_picture or (stage == "sent" and len(metric.in_picture) > 1)
            figure.add_scatter(
                x=x, y=y, mode="lines+markers",
                name=metric.title if is_alone else f"{metric.title}, {STAGES[stage]}",
                line={"color": to_hex(metric.color), "dash": DASHES[stage], "width": 2},
                marker={"size": 5}, visible=True if drawn else "legendonly",
                hovertemplate="%{y:.3f}",
            )  # fmt: skip
    for first, last in attack_windows(rounds):
        figure.add_vrect(x0=first - 0.5, x1=last + 0.5, fillcolor=ATTACK, line_width=0)
    taken = [each.round for each in rounds if repairs and each.record.accepted]
    _mark(figure, taken, "repaired", "#2ca02c")
    refused = [each.round for each in rounds if each.record.sanitized and not each.record.accepted]
    _mark(figure, refused, "repair not taken", "#d62728")
    kept = [each for each in rounds if "kept_sent" in each.record.details]
    back = [each.round for each in kept if "sent_again" in each.record.details]
    _mark(figure, back, "an earlier model sent again", "#9467bd")
    _mark(figure, [each.round for each in kept if each.round not in back], "model stays", "#7f7f7f")
    figure.update_yaxes(range=[-0.03, 1.09], title="share of test images", tickformat=".1f")
    figure.update_xaxes(dtick=_ticks(len(rounds)))
    return _styled(figure, hovermode="x unified", height=460)


def seconds(rounds: Sequence[MeasuredRound]) -> go.Figure:
    """Return the seconds of each phase, stacked per round."""
    figure = go.Figure()
    numbers = [each.round for each in rounds]
    spent = {
        "training": [each.record.train_seconds for each in rounds],
        "screening": [each.record.screen_seconds for each in rounds],
        "inspection": [each.record.details.get("inspect_seconds", 0.0) for each in rounds],
        "repair": [each.record.sanitize_seconds for each in rounds],
        "verification": [each.record.verify_seconds for each in rounds],
        "evaluation": [each.evaluate_seconds for each in rounds],
    }
    for phase, color in PHASES.items():
        if any(spent[phase]):
            figure.add_bar(x=numbers, y=spent[phase], name=phase, marker_color=color,
                           hovertemplate="%{y:.1f} s")  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="seconds")
    figure.update_xaxes(dtick=_ticks(len(rounds)))
    return _styled(figure, hovermode="x unified", height=300)


def confusion(found: Confusion) -> go.Figure:
    """Return the answers to test images by class: before and after the repair, clean and not.

    Where a repair changed no answer, one of the two is enough.
    """
    kinds = [kind for kind in ("triggered", "clean") if kind in found.before]
    # In two lines: narrow windows have no room for one.
    stages = {"before": found.before, "after": found.after}
    rows = [
        {f"{kind},<br>{stage} repair": answers[kind] for stage, answers in stages.items()}
        for kind in kinds
    ]
    if found.before == found.after:
        rows = [{f"{kind} images": found.after[kind] for kind in kinds}]
    figure = make_subplots(
        rows=len(rows), cols=len(rows[0]), horizontal_spacing=0.08, vertical_spacing=0.18,
        subplot_titles=[title for shown in rows for title in shown],
    )  # fmt: skip
    figure.update_annotations(font_size=13)
    for row, shown in enumerate(rows, 1):
        for column, counts in enumerate(shown.values(), 1):
            figure.add_heatmap(
                z=_shares(counts), row=row, col=column, zmin=0, zmax=1, showscale=False,
                colorscale=[[0, "rgba(128,128,128,0.06)"], [1, "#1f77b4"]], xgap=1, ygap=1,
                hovertemplate="class %{y} answered %{x}: %{z:.1%}<extra></extra>",
            )  # fmt: skip
    _styled(figure, height=300 * len(rows) + 40)
    figure.update_layout(margin={"l": 44, "r": 8, "t": 44, "b": 36}, showlegend=False)
    figure.update_xaxes(showgrid=False, title_standoff=4)
    figure.update_xaxes(title="answer", row=len(rows))
    figure.update_yaxes(showgrid=False, autorange="reversed", title_standoff=4)
    figure.update_yaxes(title="true class", col=1)
    return figure


def side_by_side(comparison: Comparison) -> go.Figure:
    """Return accuracy, ASR and robust accuracy of each group: means over seeds with intervals."""
    figure = go.Figure()
    for name, metric in comparison.columns.items():
        found = [(_lines(group.label), group.estimate(comparison.rate(name)))
                 for group in comparison.groups]  # fmt: skip
        measured = [(label, each) for label, each in found if each is not None]
        figure.add_scatter(
            x=[each.mean for _, each in measured], y=[label for label, _ in measured],
            error_x={"array": [each.half_width or 0 for _, each in measured], "thickness": 1.5},
            mode="markers", name=metric.title, marker={"size": 9, "color": to_hex(metric.color)},
            hovertemplate="%{y}: %{x:.3f}",
        )  # fmt: skip
    figure.update_xaxes(range=[-0.03, 1.03], title="share of test images")
    figure.update_yaxes(automargin=True, autorange="reversed")
    lines = sum(_lines(group.label).count("<br>") + 2 for group in comparison.groups)
    _styled(figure, height=130 + 20 * lines)
    above = {"y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"}
    return figure.update_layout(legend=above, margin={"t": 50, "b": 50})


def _lines(label: str) -> str:
    """Return a label with each setting on a line: narrow windows have no room beside the chart."""
    return label.replace(", ", "<br>")


def _shares(counts: Matrix) -> list[list[float]]:
    """Return each row's shares; a class without images has none."""
    found = torch.tensor(counts, dtype=torch.float64)
    shares: list[list[float]] = (found / found.sum(1, keepdim=True).clamp(min=1)).tolist()
    return shares


def attack_windows(rounds: Sequence[MeasuredRound]) -> list[tuple[int, int]]:
    """Return first and last round of each unbroken attack."""
    windows = []
    for attacked, group in groupby(rounds, key=lambda each: bool(each.malicious)):
        numbers = [each.round for each in group]
        if attacked:
            windows.append((numbers[0], numbers[-1]))
    return windows


def _repeats(rounds: Sequence[MeasuredRound], stage: str, metric: str) -> bool:
    """Tell whether the sent model's curve is the released or the aggregate's over again."""
    return stage == "sent" and any(
        all(each.rate(stage, metric) == each.rate(other, metric) for each in rounds)
        for other in ("released", "aggregate")
    )


def _is_unchanged(rounds: Sequence[MeasuredRound]) -> bool:
    """Tell whether no repair changed a rate."""
    return all(each.rates.get("aggregate") == each.rates.get("released") for each in rounds)


def _mark(figure: go.Figure, rounds: Sequence[int], name: str, color: str) -> None:
    if rounds:
        figure.add_scatter(
            x=list(rounds), y=[1.05] * len(rounds), mode="markers", name=name,
            marker={"symbol": "triangle-down", "size": 9, "color": color}, hovertemplate=" ",
        )  # fmt: skip


def _ticks(count: int) -> int:
    return max(1, round(count / 10))


def _styled(figure: go.Figure, **layout: object) -> go.Figure:
    """Leave paper and text to the page's style sheet, which knows dark mode."""
    figure.update_layout(
        template="none", paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 50, "r": 12, "t": 12, "b": 40},
        legend={"orientation": "h", "y": -0.1, "yanchor": "top", "font": {"size": 12}},
        **layout,
    )  # fmt: skip
    grid = {"showgrid": True, "gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure
