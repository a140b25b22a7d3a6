"""Figures of studies: lines with their Monte-Carlo error, or a map with its edge of harm.

They look like those of reports (:mod:`mad_lightning.drawing`), but have logarithmic axes and maps.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from mad_lightning.drawing import GREY, INK, PALETTE, RULE
from mad_lightning.refusal import Refused
from mad_lightning.theory.laboratory import Row

__all__ = ["Axes", "draw"]

_LABELS = {
    "dim": "d",
    "n_real": "n_r",
    "n_synthetic": "n_s",
    "real_share": "p",
    "sampling_bias": "λ",
    "k": "K",
    "n_fresh": "n_f",
    "n_initial": "n_ini",
    "generation": "generation t",
    "w2_squared": "E W₂²",
    "ratio": "n_e / n_r",
    "inverse_n": "1 / n",
    "rate": "d log det Σ / dt, a dimension",
}
_IN_WORDS = {
    "dim": "dimensions",
    "n_real": "real samples",
    "n_synthetic": "synthetic samples",
    "sampling_bias": "sampling bias",
    "w2_squared": "squared distance",
    "ratio": "effective real samples",
}
_INSIDE = 4
"""Lines whose legend has room among them; that of more stands beside."""
_LOOK = {
    "font.size": 9,
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    **{f"axes.spines.{side}": False for side in ("left", "top", "right")},
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "text.color": INK,
    "axes.labelcolor": GREY,
    "xtick.labelcolor": GREY,
    "ytick.labelcolor": GREY,
    "ytick.left": False,
    "ytick.minor.left": False,
    "lines.linewidth": 2,
    "lines.markeredgecolor": "#fff",
    "lines.markersize": 5,
}


@dataclass
class Axes:
    """What the figure shows; each field names a column of the table.

    Args:
        x: Across.
        y: Up.
        line: One line for each combination of these; none draws one.
        panel: One panel for each value; null draws one.
        colour: A map of this column over x and y instead of lines, with its contour at 1.
        log: The axes that are logarithmic.
    """

    x: str = "n_synthetic"
    y: str = "ratio"
    line: list[str] = field(default_factory=lambda: ["sampling_bias"])
    panel: str | None = None
    colour: str | None = None
    log: Literal["", "x", "y", "xy"] = "x"

    def check(self, columns: Sequence[str]) -> None:
        """Refuses to show what a table does not have."""
        names = [(name, getattr(self, name)) for name in ("x", "y", "panel", "colour")]
        for name, column in [*names, *(("line", column) for column in self.line)]:
            if column is not None and column not in columns:
                raise Refused(name, f"no column {column}", f"choose {', '.join(columns)}")


def draw(rows: Sequence[Row], axes: Axes, form: str = "svg") -> bytes:
    """Draws rows of a table.

    Args:
        rows: The rows.
        axes: What to show.
        form: ``svg``, ``pdf`` or ``png``.

    Returns:
        The content of the file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = _split(rows, [axes.panel] if axes.panel else [])
    look: Any = _LOOK
    with rc_context(look):
        lines = {len(_split(inside, axes.line)) for inside in panels.values()}
        legend = 2.4 if max(lines) > _INSIDE + 1 and not axes.colour else 0.0
        size = (1.2 + 3.2 * len(panels) + legend, 3.2)
        paper = Figure(figsize=size, layout="constrained")
        shared = axes.panel != "measure"  # which have units of their own
        places = paper.subplots(1, len(panels), squeeze=False, sharey=shared)[0]
        shown: Any = None
        for place, inside in zip(places, panels.values(), strict=True):
            if axes.colour:
                shown = _map(place, inside, axes)
            else:
                _lines(place, inside, axes, legend=not legend or place is places[-1])
            place.set(xlabel=_label(axes.x))
            if "x" in axes.log:
                place.set_xscale("log")
            if "y" in axes.log:
                place.set_yscale("log")
            if axes.panel in _LABELS:
                place.set_title(_named(axes.panel, inside[0]), fontsize=9)
            elif axes.panel:
                place.set_title(str(inside[0][axes.panel]), fontsize=9)
        places[0].set_ylabel(_label(axes.y))
        if axes.colour:
            paper.colorbar(shown, ax=places, label=_label(axes.colour))
        content = io.BytesIO()
        undated: Any = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        paper.savefig(content, format=form, dpi=150, metadata=undated)
    return content.getvalue()


def _split(rows: Sequence[Row], columns: Sequence[str]) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values in some columns, in the order of the table."""
    parts: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row[name] for name in columns), []).append(row)
    return parts


def _label(column: str) -> str:
    """A column in words, and its sign."""
    return f"{_IN_WORDS.get(column, '')} {_LABELS.get(column, column)}".lstrip()


def _named(column: str, row: Row) -> str:
    """A value with its column's name, e.g. ``λ = 0.9``."""
    if isinstance(row[column], str):
        return str(row[column])
    value = f"{row[column]:g}" if isinstance(row[column], float) else str(row[column])
    return f"{_LABELS.get(column, column)} = {value}"


def _lines(place: Any, rows: Sequence[Row], axes: Axes, legend: bool) -> None:
    """One line for each combination, with its Monte-Carlo interval as a band.

    What theory expects is a thin broken line.
    """
    told = [name for name in axes.line if len(_split(rows, [name])) > 1]
    for index, line in enumerate(_split(rows, axes.line).values()):
        line = sorted(line, key=lambda row: row[axes.x])
        x, y = ([row[name] for row in line] for name in (axes.x, axes.y))
        theory = [row.get("expected", math.nan) for row in line]
        colour, dots = PALETTE[index % len(PALETTE)], "o" if len(line) <= 24 else ""
        label = ", ".join(_named(name, line[0]) for name in told)
        if axes.y == "rate":
            label += f": {', '.join(dict.fromkeys(row['verdict'] for row in line))}"
        style = ("-", ":")[index // len(PALETTE) % 2]
        place.plot(x, y, dots + style, color=colour, label=label)
        if axes.y == "ratio":
            ends = [[row[name] for row in line] for name in ("ratio_low", "ratio_high")]
        elif axes.y in ("w2_squared", "mean", "rate"):
            ends = [[row[axes.y] + s * row["standard_error"] for row in line] for s in (-2, 2)]
        else:
            continue
        place.fill_between(x, *ends, color=colour, alpha=0.18, linewidth=0)
        if axes.y in ("mean", "rate") and not all(map(math.isnan, theory)):
            place.plot(x, theory, "--", color=INK, linewidth=1, dashes=(3, 3))
    if axes.y == "rate":
        place.axhline(0.0, color=GREY, linewidth=1)
    if axes.y == "ratio":
        place.axhline(1.0, color=GREY, linestyle="--", linewidth=1.5)
    if told and legend:
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        place.legend(frameon=False, fontsize=8, **(beside if index > _INSIDE else {}))


def _map(place: Any, rows: Sequence[Row], axes: Axes) -> Any:
    """A column in colours over two others, and where it is 1: the edge of the admissible."""
    x, y = (sorted({row[name] for row in rows}) for name in (axes.x, axes.y))
    # A limit farther than 2 real samples get has no n_e; it is as good as none.
    value = {(row[axes.x], row[axes.y]): row[axes.colour or ""] for row in rows}
    z = np.nan_to_num(np.array([[value.get((a, b), math.nan) for a in x] for b in y], float))
    shown = place.pcolormesh(x, y, z, shading="nearest", cmap="viridis", vmin=0.0, vmax=2.5)
    if min(z.shape) > 1:
        place.contour(x, y, z, levels=[1.0], colors="#fff", linewidths=1.5)
    return shown
