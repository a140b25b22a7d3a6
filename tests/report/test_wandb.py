"""The report in W&B asks runs for what they carry, of exactly these lineages."""

import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mad_lightning.callbacks.wandb_files import carried
from mad_lightning.commands import main
from mad_lightning.lineage import GenerationRecord, LineageDirectory
from mad_lightning.report import load
from mad_lightning.report.plan import plan
from mad_lightning.report.wandb import Panel, Part, readable, specification, still_to_do

from .ledgers import FLOOR, PROTOCOL, kept, measured, picture

ARMS = {
    "full_synth": ("full_synth", 1.0),
    "full_synth_bias066": ("full_synth", 0.66),
    "synth_aug": ("synth_aug", 1.0),
    "fresh": ("fresh", 1.0),
}
METRICS = ("fidelity/precision", "diversity/recall", "distance/fd_classifier")


@pytest.fixture(autouse=True)
def _offline(tmp_path_factory, monkeypatch):
    """No key and no settings of whoever runs the tests."""
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name == "NETRC":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    if hasattr(sys.modules.get("wandb"), "teardown"):
        sys.modules["wandb"].teardown()


def lineage(root, name, seed, generations=3):
    loop, bias = ARMS[name]
    records = [
        GenerationRecord(
            t, loop, 9 * (t == 1), 0, 9 * (t > 1), bias, measured(loop, seed, t),
            floor=FLOOR, protocol=PROTOCOL, ages={1: 9} if t > 1 else {},
        )
        for t in range(1, generations + 1)
    ]  # fmt: skip
    plain = {
        "seed_everything": seed,
        "sampling_bias": bias,
        "policy": {"class_path": loop, "init_args": {"n": 9}},
        "data": {"source": {"class_path": "Digits"}},
    }
    return kept(root / f"digits_{name}_seed{seed}", records, plain, picture(8, 8))


@pytest.fixture
def twelve(tmp_path):
    """Four configurations of three seeds; each knows its run."""
    runs = [lineage(tmp_path, name, seed) for name in ARMS for seed in range(3)]
    for path in runs:
        notes = {"id": path.name.replace("_", "-"), "complete": True}
        LineageDirectory(path).wandb_notes.write_text(json.dumps(notes))
    return runs


def planned(runs):
    return plan(load(runs))


# what it shows


def test_of_twelve_lineages_each_configuration_is_a_run_set_of_exactly_its_runs(twelve):
    spec = specification(planned(twelve))
    assert {some.name: (some.policy, some.sampling_bias) for some in spec.run_sets} == ARMS
    for some in spec.run_sets:
        expected = {f"digits_{some.name}_seed{seed}" for seed in range(3)}
        assert some.runs == {name: name.replace("_", "-") for name in expected}
    json.dumps(spec.plain())


def test_words_come_first_and_every_metric_has_its_floor_in_the_same_chart(twelve):
    shown = planned(twelve)
    spec = specification(shown)
    assert spec.parts[0].text.startswith(f"**{shown.headline[0]}**")
    curves = [panel.keys for panel in spec.panels if panel.kind == "curves"]
    assert curves == [(f"history.{key}", f"history.{key}_floor") for key in METRICS]
    kinds = [panel.kind for panel in spec.panels if panel.kind != "curves"]
    assert kinds == ["places", "places", "pictures", "parallel", "differences"]
    assert all(key in spec.parts[-1].text for key in PROTOCOL)  # how each number was made


def test_what_was_not_measured_or_drawn_has_no_panel(tmp_path):
    records = [GenerationRecord(t, "mine", 9, 0, 0, 1.0, {"mine": 1.0 * t}) for t in (1, 2, 3)]
    spec = specification(planned([kept(tmp_path / "a", records)]))
    assert [panel.kind for panel in spec.panels] == ["curves", "parallel", "differences"]
    assert spec.panels[0].keys == ("history.other/mine",)  # without a floor, no key of one


# what runs carry


def unmet(spec, runs):
    """Keys that no run carries."""
    told = [carried(run) for path in runs for run in path.glob("wandb/offline-run-*")]
    assert len(told) == len(runs)
    by_place = {place: set().union(*(run[place] for run in told)) for place in told[0]}
    by_place["history"] |= {key.partition("/")[0] for key in by_place["history"]}  # of a picture
    split = (key.partition(".") for key in spec.keys)
    return [f"{place}.{key}" for place, _, key in split if key not in by_place[place]]


def test_an_offline_run_carries_all_that_a_report_asks_for(tmp_path, capsys):
    runs = [lineage(tmp_path, name, seed) for name in ("full_synth", "fresh") for seed in (0, 1)]
    main(["wandb", *map(str, runs)])
    shown = planned(runs)
    spec = specification(shown)
    assert unmet(spec, runs) == []
    asked = Part("", "", (Panel("curves", "", ("history.fidelity/precise", "summary.last/fid")),))
    more = replace(spec, parts=(*spec.parts, asked))
    assert unmet(more, runs) == ["history.fidelity/precise", "summary.last/fid"]

    arms = {
        group.name: {
            carried(next(tmp_path.glob(f"{one.name}/wandb/offline-run-*")))["config"]["arm"]
            for one in group.lineages
        }
        for group in shown.groups
    }
    assert [len(names) for names in arms.values()] == [1, 1]  # the same for all seeds
    assert arms["full_synth"] != arms["fresh"]
    assert None not in {name for some in spec.run_sets for name in some.runs.values()}
    (sentence,) = still_to_do(shown)
    assert "`wandb sync" in sentence


def test_what_is_still_to_do_is_said_with_the_command(twelve, tmp_path):
    new = lineage(tmp_path / "more", "fresh", 3)
    shown = planned([*twelve, new])
    assert still_to_do(shown) == [f"No W&B run shows {new}; `mad wandb {new}` draws it."]
    text = readable(specification(shown), "me/p")
    assert "digits_fresh_seed3: no run yet" in text
    assert max(map(len, text.splitlines())) < 100


def test_a_run_of_an_older_version_is_to_be_drawn_anew(tmp_path, monkeypatch):
    run = lineage(tmp_path, "fresh", 0)
    main(["wandb", str(run)])
    monkeypatch.setattr("mad_lightning.report.wandb.carried", lambda _: {"config": {"policy": 1}})
    assert f"`mad wandb {run}` draws it anew" in still_to_do(planned([run]))[0]


# what W&B gets


class Server:
    """Takes the place of W&B's server: one project, and what was sent."""

    def __init__(self):
        self.sent = []
        self.default_entity = "me"
        self._service_api = SimpleNamespace(
            execute_graphql=self.answer, app_url="https://wandb.test"
        )
        self.client = SimpleNamespace(app_url="https://wandb.test")

    def projects(self, entity):
        return [SimpleNamespace(name="p")]

    def answer(self, query, variables):
        if "ProjectInternalId" in query:
            known = variables["projectName"] == "p"
            return {"project": {"internalId": "x"} if known else None}
        self.sent.append(variables)
        project = {"id": "x", "name": "p", "entityName": "me"}
        view = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
        return {"upsertView": {"view": {"id": "abc", "project": project, **view}}}


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("wandb_workspaces")
    import wandb

    made = Server()
    monkeypatch.setattr(wandb, "Api", lambda *_, **__: made)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.delenv("WANDB_MODE")
    return made


def test_the_library_sends_the_runs_keys_and_groupings_that_were_decided(twelve, server, capsys):
    main(["report", *map(str, twelve), "--wandb", "p", "--wandb_view"])
    assert "W&B: https://wandb.test/me/p/reports/" in capsys.readouterr().out
    report, view = server.sent
    assert (report["entityName"], report["projectName"], report["type"]) == ("me", "p", "runs")
    blocks = json.loads(report["spec"])["blocks"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    for grid in grids:
        told = {some["name"]: some["filters"]["filters"] for some in grid["runSets"]}
        assert told.keys() == ARMS.keys()
        for name, filters in told.items():
            keys = [(one["key"]["section"], one["key"]["name"]) for one in filters]
            assert keys == [("config", "policy"), ("config", "sampling_bias"), ("run", "name")]
            policy, bias, runs = (one["value"] for one in filters)
            assert (policy, bias) == ARMS[name]
            own = {f"digits-{name.replace('_', '-')}-seed{seed}" for seed in range(3)}
            assert set(runs) == own
    panels = [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    curves = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert [one["metrics"] for one in curves] == [[key, f"{key}_floor"] for key in METRICS]
    for one in curves:
        assert (one["xAxis"], one["groupBy"]) == ("generation", "arm.value")
        assert (one["groupAgg"], one["groupArea"]) == ("mean", "stddev")
    assert all(some["grouping"] == [] for some in grids[-1]["runSets"])
    (key,) = grids[0]["runSets"][0]["grouping"]
    assert key == {"section": "config", "name": "arm.value"}
    text = json.dumps(panels)
    for word in ("summary:last/recall", "config:policy.value", '"mediaKeys": ["samples"]'):
        assert word in text
    assert '"diffOnly": true' in text

    assert (view["type"], view["entityName"]) == ("project-view", "me")
    assert "digits-fresh-seed2" in view["spec"]


def test_a_project_that_is_not_there_is_refused(twelve, server, capsys):
    with pytest.raises(SystemExit) as left:
        main(["report", *map(str, twelve), "--wandb", "team/q"])
    assert left.value.code == 2
    assert "project 'team/q' not found" in capsys.readouterr().err


def test_without_a_key_it_is_printed_what_would_be_sent(twelve, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    main(["report", *map(str, twelve), "--wandb", "me/p", f"--wandb_json={tmp_path}/spec.json"])
    out = capsys.readouterr().out
    assert "W&B report for me/p" in out
    assert "diversity/recall, diversity/recall_floor" in out
    assert "after `wandb login` sends it" in out
    told = json.loads((tmp_path / "spec.json").read_text())
    assert [some["name"] for some in told["run_sets"]] == [*ARMS]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--wandb", "a/b/c"], "is no project"), (["--wandb_view"], "add --wandb PROJECT")],
)
def test_what_names_no_project_is_refused(twelve, capsys, arguments, told):
    with pytest.raises(SystemExit):
        main(["report", str(twelve[0]), *arguments])
    assert told in capsys.readouterr().err
