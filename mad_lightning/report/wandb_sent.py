"""What W&B's own library makes of a report, and how it is sent.

Everything here is translation: run sets into filters, keys into the library's words for them. A
history's key is a plain name there; one of the configuration or the summary needs to say so, and
where it does not, a chart stays empty without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from mad_lightning.callbacks.wandb_keys import AXIS
from mad_lightning.report.wandb import ARM, Panel, Part, RunSet, Specification

__all__ = ["report", "send", "view"]

_WIDTH, _THIRD, _HEIGHT = 24, 8, 8
"""Columns of a report; of one panel of three in a row; rows of a panel."""


def send(spec: Specification, entity: str | None, project: str, with_view: bool) -> list[str]:
    """Makes the report, and a saved view of the workspace if that is wanted.

    Args:
        spec: What it shows.
        entity: User or team; None for the default of the account.
        project: The project, which holds the runs.
        with_view: Whether to save the view.

    Returns:
        Where they are.
    """
    made = report(spec, entity, project)
    made.save()
    if not with_view:
        return [made.url]
    shown = view(spec, made.entity, project)
    shown.save()
    return [made.url, shown.url]


def report(spec: Specification, entity: str | None, project: str) -> wr.Report:
    """The report as W&B's library has it."""
    owner = {} if entity is None else {"entity": entity}
    made = wr.Report(
        project=project,
        title=spec.title[:128],
        description=spec.description,
        width="fluid",
        **owner,
    )
    blocks: list[Any] = [wr.TableOfContents()]
    for part in spec.parts:
        blocks += [wr.H1(part.heading), wr.MarkdownBlock(part.text)]
        if part.panels:
            run_sets = [_run_set(some, made.entity, project, part) for some in spec.run_sets]
            blocks.append(wr.PanelGrid(runsets=run_sets, panels=_panels(spec, part)))
    made.blocks = blocks
    return made


def view(spec: Specification, entity: str, project: str) -> ws.Workspace:
    """A view of the project that shows these lineages alone, in the report's order."""
    sections = [
        ws.Section(part.heading, panels=_panels(spec, part), is_open=True)
        for part in spec.parts
        if part.panels
    ]
    words = ws.Section(
        spec.parts[0].heading, panels=[wr.MarkdownPanel(spec.parts[0].text)], is_open=True
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name=spec.title[:128],
        sections=[words, *sections],
        settings=ws.WorkspaceSettings(x_axis=AXIS),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(_among(spec.run_sets)), groupby=[expr.Config("arm")]
        ),
    )


# runs


def _run_set(some: RunSet, entity: str, project: str, part: Part) -> wr.Runset:
    """Exactly the runs of one configuration."""
    return wr.Runset(
        entity=entity,
        project=project,
        name=some.name,
        filters=expr.And(
            expr.Config("policy") == some.policy,
            expr.Config("sampling_bias") == some.sampling_bias,
            _among([some]),
        ),
        groupby=[ARM] if part.seeds_together else [],
    )


def _among(run_sets: Sequence[RunSet]) -> Any:
    """Runs by their ids, which are unique; by the lineages' names where no run is known yet."""
    runs = [run for some in run_sets for run in some.runs.items()]
    known = [name for _, name in runs if name]
    unknown = [lineage for lineage, name in runs if not name]
    by_id, by_name = expr.Metric("ID").isin(known), expr.Metric("Name").isin(unknown)
    if known and unknown:
        return expr.Or(by_id, by_name)
    return by_id if known else by_name


# panels


def _panels(spec: Specification, part: Part) -> list[Any]:
    """The panels of a part, three in a row; what takes room has a row of its own."""
    n_runs = sum(len(some.runs) for some in spec.run_sets)
    wide = [panel.kind not in ("curves", "places") for panel in part.panels]
    return [
        _panel(
            panel,
            n_runs,
            wr.Layout(0, _HEIGHT * place, _WIDTH, 2 * _HEIGHT)
            if wide[place]
            else wr.Layout(_THIRD * (place % 3), _HEIGHT * (place // 3), _THIRD, _HEIGHT),
        )
        for place, panel in enumerate(part.panels)
    ]


def _panel(panel: Panel, n_runs: int, layout: wr.Layout) -> Any:
    keys = [_key(key) for key in panel.keys]
    match panel.kind:
        case "curves":
            return wr.LinePlot(
                title=panel.title,
                x=AXIS,
                y=keys,
                title_x=AXIS,
                groupby=_key(ARM),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                max_runs_to_show=n_runs,
                layout=layout,
            )
        case "places":
            x, y = keys
            below = (None, 1.0)  # shares
            return wr.ScatterPlot(
                title=panel.title, x=x, y=y, range_x=below, range_y=below, layout=layout
            )
        case "pictures":
            return wr.MediaBrowser(
                title=panel.title,
                media_keys=keys,
                mode="grid",
                grid_x_axis="step",
                grid_y_axis="run",
                layout=layout,
            )
        case "parallel":
            columns = [
                wr.ParallelCoordinatesPlotColumn(metric=key, display_name=words)
                for key, words in zip(keys, panel.words, strict=True)
            ]
            return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns, layout=layout)
        case "differences":
            return wr.RunComparer(diff_only=True, layout=layout)


def _key(key: str) -> Any:
    """The library's word for a key of a run."""
    place, _, name = key.partition(".")
    return {"config": wr.Config, "summary": wr.SummaryMetric, "history": str}[place](name)
