"""The page: a report as one HTML file that opens from disk and needs no network.

What it shows is decided by the plan, how it looks by the templates beside this module
(``page.html``, ``page.css``); here figures are drawn and pictures put inside. All of it can be read
and printed without a script. ``page.js`` adds values under the pointer, groups that come and go,
and a slider over the generations.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mad_lightning.drawing import PALETTE
from mad_lightning.magnitudes import duration, size
from mad_lightning.report import figures
from mad_lightning.report.answers import Answer as Asked
from mad_lightning.report.groups import Group, Value
from mad_lightning.report.plan import Answer, Chart, Curve, Plan, Range, plan

__all__ = ["page", "render"]

_TEMPLATES = Path(__file__).with_name("templates")
_ROOM = 1_700_000
"""Bytes for all pictures of a page; in text they take a third more."""
_SIDES = (344, 256, 192, 128, 96, 64, 32)
"""Pixels to which pictures are shrunk that do not fit otherwise, the first that does."""


def page(groups: Sequence[Group], told: Sequence[Asked] | None = None) -> str:
    """All that is known of groups, as one HTML file.

    Args:
        groups: Groups.
        told: What they say about the share of real data; None asks for it.

    Raises:
        Refused: If values were not measured alike, or a picture is damaged.
    """
    return render(plan(groups, told))


def render(report: Plan) -> str:
    """A plan as one HTML file."""
    last = max(group.generations for group in report.groups)
    index = {group.name: place for place, group in enumerate(report.groups)}
    n_pictures = sum(len(strip.pictures) + (strip.real is not None) for strip in report.strips)
    return (
        _environment()
        .get_template("page.html")
        .render(
            plan=report,
            index=index,
            last=last,
            palette=PALETTE,
            charts=[
                (chart, _svg(figures.chart_figure(chart, last)), list(_values(chart, report)))
                for chart in report.charts
            ],
            plane=report.plane and _svg(figures.plane_figure(report.plane)),
            strips=[
                (strip, list(_film(strip.real, strip.pictures, _ROOM / n_pictures)))
                for strip in report.strips
            ],
            classes=[_svg(figures.classes_figure(part)) for part in report.classes],
            ancestry=[_svg(figures.ancestry_figure(part)) for part in report.ancestry],
            eaten=list(dict.fromkeys(name for part in report.ancestry for name in part.parts)),
            paint=lambda name: Markup(figures.ancestry_paint(name)),
            phases=list(dict.fromkeys(phase for part in report.costs for phase in part.seconds)),
            data=Markup(json.dumps(asdict(report)).replace("<", "\\u003c")),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": _number, "duration": duration, "bytes": size}
    for name in ("page.css", "page.js"):
        text = (_TEMPLATES / name).read_text(encoding="utf-8")
        environment.globals[name.replace(".", "_")] = Markup(text)
    return environment


def _svg(drawing: str) -> Markup:
    return Markup(drawing)  # its texts were escaped when they were drawn


# the words of numbers


def _values(chart: Chart, report: Plan) -> Iterator[dict[str, Any]]:
    """A row a group: first and last value, when it left the floor, and all values to look up."""
    shown = sorted({point.generation for curve in chart.curves for point in curve.points})
    for place, (curve, group) in enumerate(zip(chart.curves, report.groups, strict=True)):
        if not curve.points:
            continue
        told = {point.generation: _told(curve, point.generation) for point in curve.points}
        first, last = curve.points[0].generation, curve.points[-1].generation
        start = Value(curve.points[0].mean, 0.0, 1)
        yield {
            "place": place,
            "group": group.name,
            "change": told[first] if first == last else f"{start} → {told[last]}",
            "left": group.left.get(chart.metric),
            "asked": chart.metric in group.left,
            "values": json.dumps([told.get(t, "–") for t in shown], ensure_ascii=False),
        }


def _told(curve: Curve, t: int) -> str:
    point = next(point for point in curve.points if point.generation == t)
    return str(Value(point.mean, point.spread, len(point.seeds)))


def _number(told: Answer | Range) -> str:
    """The number of an answer; where there is no estimate, its bound."""
    value = told.value if isinstance(told, Answer) else told
    if value is None:
        return ""
    if value.estimate is not None:
        return f"{value.estimate:.3g}"
    return "" if value.low is None else f"at least {value.low:.3g}"


# pictures


def _film(
    real: str | None, pictures: Sequence[tuple[int, str]], room: float
) -> Iterator[dict[str, Any]]:
    """The pictures of a strip: what each shows, and it with its width."""
    films = [] if real is None else [(0, real)]
    for t, path in [*films, *pictures]:
        source, width, height = _picture(Path(path), room)
        yield {"t": t, "source": source, "width": width, "height": height}


def _picture(path: Path, room: float) -> tuple[str, int, int]:
    """A picture as text, width and height; one of more bytes than there is room for, shrunk."""
    from PIL import Image

    data, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(data)) as image:
        size = image.size
        for side in _SIDES:
            if len(data) <= room:
                break
            small, file, kind = image.convert("RGB"), io.BytesIO(), "webp"
            small.thumbnail((side, side))
            small.save(file, "WEBP", quality=80)
            data, size = file.getvalue(), small.size
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}", *size
