"""Bytes and seconds in words."""

import pytest

from mad_lightning.magnitudes import duration, size


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (25_300_000_000, "25.3 GB"),
     (8e12, "8 TB"), (7.2e16, "7.2e+04 TB")],
)  # fmt: skip
def test_sizes_in_words(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.25, "0.25 s"), (119, "119 s"), (150, "2.5 min"), (9000, "2.5 h"),
     (216_000, "2.5 days")],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
