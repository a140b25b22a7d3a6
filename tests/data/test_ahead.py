import threading
import time

import pytest
import torch

from mad_lightning.data.ahead import ahead
from mad_lightning.samples import Samples


def batches(n, made=None):
    for place in range(n):
        if made is not None:
            made.append(place)
        yield Samples(torch.full((2, 3), float(place)), torch.arange(2))


def same(samples):
    return samples


def settle(condition):
    limit = time.monotonic() + 20
    while not condition() and time.monotonic() < limit:
        time.sleep(0.01)


def test_batches_come_as_they_are_and_a_little_ahead():
    made = []
    coming = ahead(batches(6, made), same)
    assert made == []
    first = next(coming)
    settle(lambda: len(made) == 3)
    time.sleep(0.3)
    assert made == [0, 1, 2]  # one is worked on, one waits, one is held out
    places = [float(batch.values[0, 0]) for batch in (first, *coming)]
    assert places == [0, 1, 2, 3, 4, 5]


def test_what_goes_wrong_is_raised_in_its_place():
    def broken():
        yield from batches(2)
        raise OSError("the disk is gone")

    coming = ahead(broken(), same)
    assert len([next(coming), next(coming)]) == 2
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)


def test_whoever_leaves_early_leaves_no_thread():
    before = threading.active_count()
    coming = ahead(batches(50), same)
    next(coming)
    coming.close()
    assert threading.active_count() == before
