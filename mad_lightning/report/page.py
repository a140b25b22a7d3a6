"""All of a report on one page: tables, figures, film strips, differences.

One HTML file that opens from disk, with everything inside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from mad_lightning.files import Damaged
from mad_lightning.lineage.configuration import differences
from mad_lightning.refusal import Refused
from mad_lightning.report.figures import figure, plane
from mad_lightning.report.groups import Group, Lineage, lineages_of, metrics_of, thinned
from mad_lightning.report.judged import judgements
from mad_lightning.report.tables import (
    Rows,
    criteria_rows,
    value_notes,
    value_rows,
    verdict_notes,
    verdict_rows,
)

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 Helvetica, Arial, sans-serif; max-width: 78em; margin: auto; padding: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
tr:first-child { font-weight: bold }
.values tr:nth-child(2) { font-size: .85em; opacity: .75 }
td { padding: .3em .8em; border-bottom: 1px solid #8886; text-align: left }
h3 { font-size: 1em; margin-bottom: .3em }
figure { margin: 0 8px 0 0 }
figcaption { font-size: 12px; text-align: center }
img { width: 168px; image-rendering: pixelated }
svg { max-width: 100%; height: auto }
div { overflow-x: auto }
.strip { display: flex }
"""
_ROOM = 1_400_000
"""Bytes for all pictures of a page; in text they take a third more."""


def page(groups: Sequence[Group]) -> str:
    """All that is known of groups, as one HTML file.

    Raises:
        Refused: If values were not measured alike.
    """
    metrics, judged = metrics_of(groups), judgements(groups)
    title = escape("Lineages: " + ", ".join(group.name for group in groups))
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style>\n<h1>{title}</h1>",
        _table(value_rows(groups, metrics), "values"),
        *_paragraphs(value_notes(groups, metrics)),
        "<h2>Verdict</h2>",
        _table(verdict_rows(groups, judged), "verdicts"),
        *_paragraphs(verdict_notes(groups, judged)),
        _table(criteria_rows(groups, judged), "criteria"),
        f"<h2>Metrics</h2>\n{figure(groups, metrics)}",
    ]
    if {"precision", "recall"} <= set(metrics):
        parts.append(f"<h2>Fidelity and diversity</h2>\n{plane(groups)}")
    return "\n".join([*parts, *_strips(groups), *_differences(groups), "</html>\n"])


def _table(rows: Rows, kind: str) -> str:
    cells = ("".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    inside = "\n<tr>".join(cells)
    return f'<div><table class="{kind}"><tr>{inside}</table></div>'


def _paragraphs(lines: Sequence[str]) -> list[str]:
    return [f"<p>{escape(line)}</p>" for line in lines]


def _strips(groups: Sequence[Group]) -> Iterator[str]:
    """The pictures of each lineage in a row, one a generation."""
    strips = [(lineage, _pictures(lineage)) for lineage in lineages_of(groups)]
    n_pictures = sum(len(pictures) for _, pictures in strips)
    if n_pictures:
        yield "<h2>Samples</h2>"
    for lineage, pictures in strips:
        if pictures:
            yield f"<h3>{escape(str(lineage.directory))}</h3>\n<div class='strip'>"
            for t, path in pictures:
                image = _picture(path, _ROOM / n_pictures)
                yield f"<figure>{image}<figcaption>generation {t}</figcaption></figure>"
            yield "</div>"


def _pictures(lineage: Lineage) -> list[tuple[int, Path]]:
    """At some 12 generations, where there is one.

    Raises:
        Refused: If one is not what was drawn.
    """
    try:
        shown = thinned(len(lineage.records), 12)
        places = ((t, lineage.directory.sound_picture(t)) for t in shown)
        return [(t, path) for t, path in places if path is not None]
    except Damaged as damaged:
        remedy = "bring it back from a copy, or take it away: the page goes without it"
        raise Refused(str(lineage.directory), str(damaged), remedy) from None


def _picture(path: Path, room: float) -> str:
    """A picture inside the page; one of more bytes than there is room for, as a small JPEG."""
    data, kind = path.read_bytes(), "png"
    if len(data) > room:
        from PIL import Image

        image, file, kind = Image.open(path).convert("RGB"), io.BytesIO(), "jpeg"
        image.thumbnail((344, 344))  # twice as large as it is shown
        image.save(file, "JPEG", quality=75)
        data = file.getvalue()
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _differences(groups: Sequence[Group]) -> Iterator[str]:
    """In what the configurations differ from the first one."""
    base, *others = groups
    for group in others:
        lines = "\n".join(differences(base.lineages[0].config, group.lineages[0].config))
        yield f"<h2>Configuration: {escape(base.name)} → {escape(group.name)}</h2>"
        yield f"<div><pre>{escape(lines)}</pre></div>"
