"""The ledger survives what kills the program."""

import json
import math

import pytest

from mad_lightning.lineage import (
    GenerationRecord,
    Ledger,
    LineageSettings,
    differences,
    read_json,
    write_json,
)
from mad_lightning.refusal import Refused


def record(t, **changes):
    return GenerationRecord(t, "fresh", 0, 10, 90, 1.0, {"recall": 0.5, "fid": 3.0}, **changes)


def test_records_round_trip(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.path.parent.mkdir(exist_ok=True)
    written = [record(1, seconds={"train": 1.5}), record(2, digests={"shard": "ab"})]
    for each in written:
        ledger.append(each)
    assert ledger.records() == written
    assert [json.loads(line)["generation"] for line in ledger.path.open()] == [1, 2]


def test_a_torn_line_was_never_finished(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(record(1))
    whole = record(2).to_json().encode()
    for cut in (1, len(whole) // 2, len(whole)):
        with ledger.path.open("ab") as file:
            file.write(whole[:cut])
        assert len(ledger.records()) == 1
        with pytest.raises(ValueError, match="cannot follow"):
            ledger.append(record(3))
    ledger.append(record(2))
    assert [each.generation for each in ledger.records()] == [1, 2]


def test_values_that_are_not_finite_are_null_and_come_back_as_nan():
    line = GenerationRecord(1, "fresh", 0, 0, 0, 1.0, {"fid": math.nan, "recall": 1.0}).to_json()
    assert json.loads(line, parse_constant=pytest.fail)["metrics"]["fid"] is None
    assert math.isnan(GenerationRecord.from_json(line).metrics["fid"])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_differences_name_the_fields_that_matter():
    old = {
        "lineage": {"generations": 3, "root": "a"},
        "policy": {"init_args": {"n_real": 5}},
        "trainer": {"max_epochs": 2, "enable_progress_bar": False},
        "evaluator": {"metrics": [{"class_path": "N", "init_args": {"k": 5}}]},
    }
    same = {**old, "lineage": {"generations": 9, "root": "b"}}
    assert differences(old, same) == []
    new = json.loads(json.dumps(old))
    new["policy"]["init_args"]["n_real"] = 6
    new["evaluator"]["metrics"][0]["init_args"]["k"] = 3
    assert differences(old, new) == [
        "evaluator.metrics.0.init_args.k: 5 -> 3",
        "policy.init_args.n_real: 5 -> 6",
    ]


def test_starting_points(tmp_path):
    base = tmp_path / "generator.ckpt"
    base.touch()

    def origins(**settings):
        return [LineageSettings(**settings).starts_from(t) for t in (1, 2, 3, 4)]

    assert origins() == [None, None, None, None]
    assert origins(start="previous") == [None, 1, 2, 3]
    assert origins(start="base") == [None, 1, 1, 1]
    assert origins(start="previous", base=str(base)) == [base, 1, 2, 3]
    assert origins(start="base", base=str(base)) == [base, base, base, base]


def test_a_base_that_is_not_there_or_not_used_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"lineage.base.*no file"):
        LineageSettings(start="base", base=str(tmp_path / "nowhere.ckpt"))
    (tmp_path / "g.ckpt").touch()
    with pytest.raises(Refused, match=r"lineage.base.*would not be used"):
        LineageSettings(base=str(tmp_path / "g.ckpt"))
