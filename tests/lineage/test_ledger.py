"""The ledger survives what kills the program."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest

from mad_lightning.lineage import GenerationRecord, Ledger, Quantity
from mad_lightning.lineage.quantities import MeasurementError
from mad_lightning.refusal import Refused


def record(t, **changes):
    return GenerationRecord(t, "fresh", 0, 10, 90, 1.0, {"recall": 0.5, "fid": 3.0}, **changes)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "lineage.jsonl")


def test_records_round_trip(ledger):
    mine = {"sharpness": Quantity("fidelity", "lower", low=0.0, high=1.0, floor="blurred ones")}
    written = [
        record(1, seconds={"train": 1.5}),
        record(2, digests={"shard": "ab"}, ages={3: 10, 1: 80}, quantities=mine, drawn="002"),
    ]
    for line in written:
        ledger.append(line)
    assert ledger.records() == written
    assert [json.loads(line)["generation"] for line in ledger.path.open()] == [1, 2]


def test_a_line_tells_when_it_was_finished_and_equal_lineages_need_not_agree_on_that(ledger):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    ledger.append(record(1))
    (told,) = ledger.records()
    assert before <= datetime.fromisoformat(told.time) <= datetime.now(UTC)
    spent = {"seconds": {"train": 9.0}, "cpu_seconds": {"train": 8.0}}
    passing = {"time": "2001", **spent, "environment": {"torch": "1"}}
    assert record(1, **passing, changed=["trainer.devices: 1 -> 2"]).outcome == told.outcome
    assert record(1, digests={"shard": "ab"}).outcome != told.outcome
    assert json.loads(told.to_json()).keys() - told.outcome.keys() == {*passing, "changed"}


def test_a_torn_line_was_never_finished(ledger):
    ledger.append(record(1))
    whole = record(2).to_json().encode()
    for cut in (1, len(whole) // 2, len(whole)):
        with ledger.path.open("ab") as file:
            file.write(whole[:cut])
        assert len(ledger.records()) == 1
        with pytest.raises(ValueError, match="cannot follow"):
            ledger.append(record(3))
    ledger.append(record(2))
    assert [line.generation for line in ledger.records()] == [1, 2]


def test_values_that_are_not_finite_are_null_and_come_back_as_nan():
    line = GenerationRecord(1, "fresh", 0, 0, 0, 1.0, {"fid": math.nan, "recall": 1.0}).to_json()
    assert json.loads(line, parse_constant=pytest.fail)["metrics"]["fid"] is None
    assert math.isnan(GenerationRecord.from_json(line).metrics["fid"])


def test_errors_come_back_as_they_went():
    errors = {"recall": MeasurementError(0.01, 0.02)}
    told = record(1, errors=errors, floor_errors={"recall": 0.03, "fid": math.nan})
    read = GenerationRecord.from_json(told.to_json())
    assert read.errors == errors
    assert read.errors["recall"].both == pytest.approx(0.0005**0.5)
    assert read.floor_errors["recall"] == 0.03
    assert math.isnan(read.floor_errors["fid"])


def test_a_line_from_before_ledgers_carried_meanings_and_ages_is_read_by_its_names():
    line = '{"generation": 2, "policy": "fresh", "n_real": 0, "n_fresh": 1, "n_synthetic": 2, '
    line += '"sampling_bias": 1.0, "metrics": {"class_recall": 0.5, "emd": 1.0}, "later": 1}'
    read = GenerationRecord.from_json(line)
    assert (read.ages, read.errors, read.floor_errors) == (None, {}, {})
    assert read.time == ""
    assert read.quantities["class_recall"].section == "diversity"
    assert read.quantities["emd"] == Quantity()


def test_what_a_record_states_of_a_name_wins_over_what_the_name_says():
    odd = Quantity("copies", "higher")
    assert record(1, quantities={"recall": odd}).quantities["recall"] == odd
    assert record(1, quantities={"recall": odd}).quantities["fid"].section == "distance"


# --- damage --------------------------------------------------------------------------------------


def damaged(lines):
    """What can happen to a ledger of four lines, by name."""
    edited = [*lines]
    edited[1] = edited[1].replace(b'"recall": 0.5', b'"recall": 0.9')
    last = [*lines]
    last[3] = last[3].replace(b'"recall": 0.5', b'"recall": 0.9')
    unchained = [*lines]
    unchained[2] = unchained[2][: unchained[2].index(b', "chain"')] + b"}\n"
    return {
        "edited": edited,
        "edited at the end": last,
        "gap": [lines[0], *lines[2:]],
        "begun in the middle": lines[1:],
        "doubled": [lines[0], *lines],
        "swapped": [lines[0], lines[2], lines[1], lines[3]],
        "unchained": unchained,
        "not JSON": [lines[0], b"{\n", *lines[2:]],
        "an empty line": [lines[0], b"\n", *lines[1:]],
    }


@pytest.mark.parametrize("damage", damaged([b'"recall": 0.5, "chain": ""'] * 4))
def test_a_ledger_that_is_not_what_was_written_is_refused(ledger, damage):
    for t in (1, 2, 3, 4):
        ledger.append(record(t))
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(damaged(lines)[damage]))
    with pytest.raises(Refused) as caught:
        ledger.records()
    assert caught.value.field == str(ledger.path)
    assert "line" in caught.value.problem


@pytest.mark.parametrize("n", [1, 2])
def test_any_flipped_bit_is_noticed(ledger, n):
    """Also one that makes another kind of line end; of the last one, that the line is not whole."""
    for t in range(1, n + 1):
        ledger.append(record(t))
    whole = ledger.path.read_bytes()
    ends = [place for place, byte in enumerate(whole) if byte ^ 32 == ord("\r")]
    flips = [(place, place % 8) for place in range(0, len(whole) - 1, 7)]
    flips += [(place, place % 8) for place in range(len(whole) - 90, len(whole) - 1)]
    for place, bit in [*flips, *((place, 5) for place in ends)]:
        broken = bytearray(whole)
        broken[place] ^= 1 << bit
        ledger.path.write_bytes(bytes(broken))
        with pytest.raises(Refused):
            ledger.records()
    ledger.path.write_bytes(whole[:-1] + b"J")
    assert len(ledger.records()) == len(ledger) == n - 1
    assert not ledger.ends_well


def test_lines_from_before_ledgers_were_chained_are_taken_and_then_held(ledger):
    old = "".join(f"{record(t).to_json()}\n" for t in (1, 2))
    ledger.path.write_text(old)
    assert len(ledger.records()) == 2
    ledger.append(record(3))
    assert len(ledger.records()) == 3
    later = ledger.path.read_text()[len(old) :]
    ledger.path.write_text(old.replace("0.5", "0.9") + later)
    with pytest.raises(Refused):
        ledger.records()
