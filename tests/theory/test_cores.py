"""Work for several cores: order, turns, and what goes wrong."""

import threading
from functools import partial

import pytest
import torch

from mad_lightning.theory.cores import in_parallel, in_turns


def test_results_come_in_the_order_of_the_jobs():
    first_waits = threading.Event()

    def task(job):
        if job == 0:
            assert first_waits.wait(10)
        if job == 3:
            first_waits.set()
        return job, torch.get_num_threads()

    assert in_parallel(task, range(4), threads=2) == [(job, 1) for job in range(4)]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_work_goes_on_once_all_its_tasks_are_done(threads):
    done = {}

    def work(name):
        numbers = yield [partial(int, digit) for digit in "314"]
        (total,) = yield [partial(sum, numbers)]
        done[name] = (numbers, total)

    in_turns(map(work, "abc"), threads)
    assert done == dict.fromkeys("abc", ([3, 1, 4], 8))


def test_works_are_begun_when_a_core_is_free_for_them():
    begun = []

    def work(name):
        begun.append(name)
        yield [lambda: None]
        yield [lambda: begun.append(name + " ends")]

    in_turns(map(work, "ab"), threads=1)
    assert begun == ["a", "a ends", "b", "b ends"]


def test_what_a_task_raises_is_raised():
    def work():
        yield [partial(int, "1"), partial(int, "one")]

    with pytest.raises(ValueError, match="one"):
        in_turns([work()], threads=2)
