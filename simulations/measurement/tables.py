"""A table in the forms in which people want it: text, Markdown, CSV, LaTeX."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells under heads."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(table: Table) -> str:
    """Return columns of equal width."""
    lines = [table.head, *table.rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(table.head))]
    shown = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join([table.title, *shown])


def as_markdown(table: Table) -> str:
    """Return a Markdown table under its title."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join([f"**{table.title}**", "", *("| " + " | ".join(row) + " |" for row in lines)])


def as_csv(table: Table) -> str:
    """Return comma-separated values; the first column is the title, which tells tables apart."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", *table.head])
    writer.writerows([table.title, *row] for row in table.rows)
    return out.getvalue().rstrip()


LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$",
         "{": r"\{", "}": r"\}", "±": r"$\pm$", "–": "--", "→": r"$\to$"}  # fmt: skip


def as_latex(table: Table) -> str:
    """Return a tabular with booktabs' rules."""

    def line(cells: Sequence[str]) -> str:
        spelled = ("".join(LATEX.get(sign, sign) for sign in cell) for cell in cells)
        return " & ".join(spelled) + r" \\"

    return "\n".join(
        [
            f"% {table.title}; needs \\usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{{'l' * len(table.head)}}}",
            r"\toprule",
            line(table.head),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


FORMATS: dict[str, Callable[[Table], str]] = {
    "text": as_text,
    "markdown": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}
