"""Seeds until an arm is decided: who is trained, and what all looks together may err."""

import numpy as np
import pytest
import yaml
from scipy.stats import t as student

from mad_lightning.refusal import Refused
from mad_lightning.sweeps import Outcome, Sweep, ask
from mad_lightning.sweeps.rounds import FIRST_LOOK, LEVELS

from .test_plan import BASE


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def sweep(seeds, biases=(1.0, 0.5, 0.25), **more):
        grid = {"sampling_bias": [*biases], "seed_everything": [*range(seeds)]}
        return Sweep([tmp_path / "base.yaml"], grid, root=tmp_path / "runs", **more)

    return sweep


class Engine:
    """Trains nothing; some lineages fail."""

    def __init__(self, fails=()):
        self.rounds, self.fails = [], fails

    def __call__(self, members):
        self.rounds.append([(m.arm.partition("=")[2], m.seed) for m in members])
        return [Outcome(m, "failed" if m.name in self.fails else "finished") for m in members]


def decides(**after):
    """A judge to whom an arm is MAD from so many seeds on."""

    def judge(members, alpha):
        bias = members[0].arm.partition("=")[2].replace(".", "_")
        return "MAD" if len(members) >= after.get(f"b{bias}", 99) else "undecided"

    return judge


def test_three_seeds_of_all_then_one_at_a_time_of_those_that_are_open(sweep):
    engine = Engine()
    told = ask(sweep(5), engine, until_decided=True, judge=decides(b1=3, b0_5=4))
    first = [("1", 0), ("0.5", 0), ("0.25", 0), ("1", 1), ("0.5", 1), ("0.25", 1)]
    assert engine.rounds[0][:6] == first
    assert engine.rounds[1:] == [[("0.5", 3), ("0.25", 3)], [("0.25", 4)]]
    level = LEVELS[5]
    assert [*told.answers.values()] == [
        ("MAD", 3, level),
        ("MAD", 4, level),
        ("undecided", 5, level),
    ]
    assert len(told.outcomes) == 12


def test_an_arm_that_lacks_a_seed_is_not_looked_at_and_gets_all(sweep):
    engine = Engine(fails=["base,sampling_bias=1_seed1"])
    told = ask(sweep(5), engine, until_decided=True, judge=decides(b1=3, b0_5=3, b0_25=3))
    assert [arm.partition("=")[2] for arm in told.answers] == ["0.5", "0.25"]
    assert engine.rounds[1:] == [[("1", 3)], [("1", 4)]]


def test_without_looks_all_seeds_are_trained_and_nobody_is_asked(sweep):
    engine = Engine()
    told = ask(sweep(2), engine, judge=None)
    assert [len(members) for members in engine.rounds] == [6]
    assert told.answers == {}


def test_shares_around_the_border_are_added_until_it_is_known(sweep, tmp_path):
    made = Sweep(
        [tmp_path / "base.yaml"],
        {"seed_everything": [0, 1, 2]},
        {"policy.n_fresh": [10, 90], "policy.n_synthetic": [90, 10]},
        refine=0.2,
        root=tmp_path / "runs",
    )  # fmt: skip
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))

    def judge(members, alpha):
        fresh = int(members[0].arm.partition("n_fresh=")[2].partition(",")[0])
        return "settled" if fresh >= 45 else "undecided"

    engine = Engine()
    told = ask(made, engine, until_decided=True, judge=judge)
    assert len(told.answers) == 4  # 10 and 90, then 50 and 30
    assert sum(map(len, engine.rounds)) == 12


def test_too_few_seeds_to_look_at_are_refused(sweep):
    for seeds in (1, 2, 13):
        with pytest.raises(Refused) as caught:
            ask(sweep(seeds), Engine(), until_decided=True)
        assert caught.value.field == "seed_everything"


@pytest.mark.parametrize("most", LEVELS)
def test_all_looks_together_err_in_five_percent(most):
    """Student's one-sided tests of a true null after each seed, of 100,000 arms."""
    draws = np.random.default_rng(most).normal(size=(100_000, most))
    n = np.arange(1, most + 1)
    mean = draws.cumsum(1) / n
    variance = ((draws**2).cumsum(1) - n * mean**2) / np.maximum(n - 1, 1)
    tests = mean[:, FIRST_LOOK - 1 :] / np.sqrt(variance / n)[:, FIRST_LOOK - 1 :]
    limits = student.ppf(1 - LEVELS[most], n[FIRST_LOOK - 1 :] - 1)
    wrong = (tests > limits).any(1).mean()
    assert abs(wrong - 0.05) < 0.0025
