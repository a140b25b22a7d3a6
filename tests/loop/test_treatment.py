"""What is measured is what was drawn; what later generations eat may be something else."""

from dataclasses import replace

import pytest

from mad_lightning.commands.train import build
from mad_lightning.data.shards import Shard
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.policies import shard_name
from mad_lightning.samples import Samples


class KeepsTheSecondHalf(MetaTrainer):
    """Publishes the later samples of each shard, twice over."""

    treatment = "kept"

    def treat(self, t, drawn):
        kept = self.store[shard_name(t, self.treatment)]
        if not kept.exists:
            half = drawn.samples[len(drawn.samples) // 2 :]
            twice = Samples(half.values.repeat(2, 1, 1, 1), half.labels.repeat(2))
            manifest = replace(
                drawn.manifest, name=shard_name(t, "kept"), parents=(drawn.manifest.name,)
            )
            kept.write(twice, manifest)
        return kept


@pytest.fixture
def treated(arguments):
    meta = build(arguments, KeepsTheSecondHalf)
    return meta, meta.fit()


def test_later_generations_eat_what_was_published_and_the_ledger_says_so(treated):
    meta, records = treated
    assert [(r.drawn, r.published) for r in records] == [
        (f"{t:03d}", f"{t:03d}.kept") for t in (1, 2, 3)
    ]
    assert meta.lineage.mix(2).shards == ("001.kept",)
    assert [record.ages for record in records] == [{}, {1: 200}, {1: 200}]
    kept = Shard(meta.lineage.shard("001.kept"))
    assert kept.manifest.parents == ("001",)
    fed = meta.data.feed(meta.mix(2), meta.seed, meta.store).training_set()
    assert fed.digest() == kept.samples.digest()


def test_what_is_measured_and_digested_is_what_was_drawn(treated, arguments):
    _, records = treated
    options = [*arguments, "--lineage.name", "plain", "--lineage.generations", "1"]
    plain = build(options, KeepsTheSecondHalf)
    untreated = MetaTrainer.fit(plain)[0]
    assert records[0].metrics == untreated.metrics
    assert records[0].digests == untreated.digests
    assert len(Shard(plain.lineage.shard("001")).samples) == 200
