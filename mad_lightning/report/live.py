"""A page beside every lineage that grows, so that it can be looked at while it is trained.

    callbacks: [Console, ReportPage]

``report.html`` is written anew after a generation, and at the end. A page takes a fraction of a
second, which a lineage of generations of milliseconds would feel: so it waits at least ``seconds``,
and 20 times as long as the last page took. A page that fails is told of, and ends no lineage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from mad_lightning.callbacks.base import LineageCallback, LineageInfo
from mad_lightning.files import write
from mad_lightning.lineage.directory import LineageDirectory
from mad_lightning.lineage.ledger import GenerationRecord
from mad_lightning.refusal import check_within

__all__ = ["ReportPage"]

_log = logging.getLogger(__name__)
_SHARE = 20
"""A page may take one part in so many of the time."""


class ReportPage(LineageCallback):
    """Writes the page of a lineage into its directory while it grows.

    Args:
        seconds: At least between two pages; 0 writes one after every generation.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        check_within("[0, inf)", seconds=seconds)
        self.seconds = seconds

    def on_lineage_start(self, lineage: LineageInfo, records: Sequence[GenerationRecord]) -> None:
        """Nothing is shown before a generation is finished."""
        self._directory, self._made = lineage.directory, len(records)
        self._file = lineage.directory.path / LineageDirectory.PAGE
        self._next = time.monotonic() + self.seconds

    def on_generation_end(self, record: GenerationRecord, directory: Path) -> None:
        """One more page, unless the last one is of just now."""
        if time.monotonic() >= self._next:
            self._write()

    def on_lineage_end(self, records: Sequence[GenerationRecord], finished: bool) -> None:
        """The last page, of all generations."""
        missing = not self._file.exists()
        if records and (missing or len(records) > self._made):
            self._write()

    def _write(self) -> None:
        start = time.monotonic()
        try:
            from mad_lightning.report.groups import load
            from mad_lightning.report.page import page

            text = page(load([self._directory.path]))
            write(self._file, text, lasting=False)
        except Exception as error:  # whoever looks is not what the lineage is for
            _log.warning("no page of %s: %s", self._directory, error)
        now = time.monotonic()
        self._next = now + max(self.seconds, _SHARE * (now - start) if self.seconds else 0.0)
