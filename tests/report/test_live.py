"""A lineage that grows has a page beside it, which never ends it."""

import logging

import pytest

from mad_lightning.callbacks import LineageInfo
from mad_lightning.lineage import LineageDirectory
from mad_lightning.refusal import Refused
from mad_lightning.report import ReportPage, live

from .ledgers import GENERATIONS, lineage, picture


def grown(path, callback, generations=GENERATIONS):
    """Tells a callback of a lineage as the loop does, and which generations had a new page."""
    directory = LineageDirectory(path)
    page, records, written = path / "report.html", directory.records()[:generations], []
    callback.on_lineage_start(LineageInfo(path.name, directory, 6, 0, "fresh", 1.0), ())
    for record in records:
        page.unlink(missing_ok=True)
        callback.on_generation_end(record, directory.generation(record.generation))
        written += [record.generation] * page.exists()
    page.unlink(missing_ok=True)
    callback.on_lineage_end(records, finished=True)
    return written, page


def test_it_is_written_after_every_generation_and_at_the_end(tmp_path):
    path = lineage(tmp_path, "fresh", 0, picture=picture(20, 20))
    written, page = grown(path, ReportPage(seconds=0))
    assert written == [1, 2, 3, 4, 5, 6]
    assert page.read_text().startswith("<!doctype html>")


def test_generations_of_milliseconds_wait_for_the_end(tmp_path, monkeypatch):
    clock = iter(range(1, 10_000))
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock) / 1000)
    written, page = grown(lineage(tmp_path, "fresh", 0), ReportPage())
    assert written == []
    assert page.exists()


def test_a_page_that_fails_is_told_of_and_ends_nothing(tmp_path, caplog):
    path = lineage(tmp_path, "fresh", 0, picture=picture(20, 20)[:-9])
    with caplog.at_level(logging.WARNING):
        written, page = grown(path, ReportPage(seconds=0), generations=2)
    assert (written, page.exists()) == ([], False)
    assert "samples.png is damaged" in caplog.text


def test_no_time_runs_backwards():
    with pytest.raises(Refused, match="seconds"):
        ReportPage(seconds=-1)
