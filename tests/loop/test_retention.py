"""Samples that nobody needs any more can go, and come back as they were."""

import pytest

from mad_lightning.commands import main
from mad_lightning.commands.train import build
from mad_lightning.loop.admission import admit
from mad_lightning.loop.retention import Retention
from mad_lightning.policies import FullySynthetic, SyntheticAugmentation
from mad_lightning.refusal import Refused


def digests(records):
    return [record.digests for record in records]


def there(meta):
    """Generations whose samples are on disk."""
    return [t for t in range(1, 9) if meta.store[f"{t:03d}"].values_file.exists()]


@pytest.mark.parametrize(
    ("policy", "keep", "expected"),
    [
        (FullySynthetic(9), "all", [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]),
        (FullySynthetic(9), "needed", [[1], [2], [3], [4]]),
        (FullySynthetic(9, synthetic_from="all"), "needed", [[1], [1, 2], [1, 2, 3], [4]]),
        (FullySynthetic(9, synthetic_from="last_k", k=2), "last", [[1], [1, 2], [2, 3], [4]]),
        (SyntheticAugmentation(9, 9), "last", [[1], [2], [3], [4]]),
    ],
)
def test_what_later_generations_train_on_stays_and_so_do_the_newest(policy, keep, expected):
    retention = Retention(keep, policy, 4, {})
    assert [sorted(retention.stays(t)) for t in range(1, 5)] == expected
    at_once = max(len({t} | retention.stays(t - 1)) for t in range(1, 5))
    assert retention.most(lambda t: 10) == 10 * at_once


@pytest.fixture
def whole(arguments):
    """Four generations of which everything was kept."""
    return build([*arguments, "--lineage.generations", "4"]).fit()


def test_a_lineage_that_evicts_ends_with_the_digests_of_one_that_kept_all(arguments, whole, capsys):
    needed = [*arguments, "--lineage.name", "needed", "--lineage.keep", "needed"]
    meta = build([*needed, "--lineage.generations", "3"])
    assert digests(meta.fit()) == digests(whole)[:3]
    assert there(meta) == [3]

    # It is made longer as any other, also where that needs what was evicted.
    meta = build([*needed, "--lineage.generations", "4"])
    meta.retention.evict(3)
    meta.store["003"].evict()
    assert there(meta) == []
    assert digests(meta.fit()) == digests(whole)
    assert there(meta) == [4]

    main(["verify", str(meta.lineage)])
    told = capsys.readouterr().out
    assert "the samples of shards 001, 002, 003 were evicted; drawn again by: mad train" in told
    assert not admit(meta)
    meta = build([*needed, "--lineage.generations", "4", "--lineage.keep", "all"])
    assert admit(meta)  # else other processes would not be started to share the work
    assert digests(meta.fit()) == digests(whole)
    assert there(meta) == [1, 2, 3, 4]
    main(["verify", str(meta.lineage)])
    assert "evicted" not in capsys.readouterr().out


def test_an_evicted_shard_that_comes_back_as_another_is_refused(arguments):
    meta = build(arguments)
    meta.fit()
    meta.store["001"].evict()
    weights = meta.lineage.weights(1)
    weights.unlink()
    weights.hardlink_to(meta.lineage.weights(2))
    with pytest.raises(Refused, match=r"was evicted; .*the ledger tells of other weights"):
        build(arguments).fit()


def test_whoever_needs_evicted_samples_is_told_how_they_come_back(arguments, tmp_path, capsys):
    keeping = [*arguments, "--lineage.keep", "needed"]
    lineage = build(keeping)
    lineage.fit()
    place = str(lineage.lineage)
    for command in (
        ["export", place, "--generation", "1", "--to", "npz", "--out", str(tmp_path / "x.npz")],
        ["branch", "--from", f"{place}@1", "--lineage.name", "other"],
        ["measure", place, "--metrics", "Frechet"],
    ):
        with pytest.raises(SystemExit):
            main(command)
        told = capsys.readouterr().err
        assert "the samples of shard 001 were evicted" in told
        assert "all" in told.partition("remedy: ")[2]
    main(["branch", "--from", f"{place}@3", "--lineage.name", "later"])
