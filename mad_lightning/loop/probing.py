"""Samples of a lineage's generators that nobody was trained on, to measure how errors add up.

The law of a child holds the sampling noise of the very shard that it was trained on. Products of
errors of parent and child, taken on that shard, are too large by that noise: of a Gaussian, which
passes on all of its error, they say that it passes on 1.6 times as much. So what measures them is
drawn anew from the weights, from an address of its own, and kept in the cache like features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256

from torch import Tensor

from mad_lightning.loop.blocks import Announce, Blocks
from mad_lightning.loop.checkpoints import load_told
from mad_lightning.loop.classes import seed_block
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import SeedBlock

__all__ = ["probe", "reference"]

_FAR = 2**38
"""A place in a pool that never runs out, behind all that lineages train on."""


def probe(
    meta: MetaTrainer, t: int, n: int, announce: Announce = lambda done, all: None
) -> tuple[Tensor, Tensor | None]:
    """Features of new samples of a generation.

    Args:
        meta: The lineage.
        t: Generation, finished.
        n: How many samples.
        announce: Called with (blocks done, all blocks).

    Returns:
        Features (n, D), and classes (n,) where samples have some.

    Raises:
        Refused: If its weights are not there any more.
    """
    told = meta.told[t]["generator"]
    generator = meta.fresh_generator(t)
    with at("lineage"):
        try:
            load_told(generator, meta.lineage.weights(t), told)
        except OSError as error:
            raise Refused("", str(error), "bring it back from a copy") from None
    asked, _ = meta.sampling.classes(t)
    size, bias = meta.settings.block_size, meta.bias(t)
    place = meta.data.cache / f"probe-{told[:12]}-{bias:g}-{n}-{size}"
    blocks = Blocks(place / "samples", n, size)
    address = (meta.seed, t, "probe")
    draw: Callable[[int, slice], SeedBlock] = partial(
        seed_block, address, asked, sampling_bias=bias
    )
    meta.trainers.compute(generator, {blocks: draw}, announce)
    samples = blocks.samples()
    features = meta.measuring.features({"probe": samples}, place / "features", announce)["probe"]
    return features, samples.labels


def reference(meta: MetaTrainer, most: int) -> tuple[Tensor, Tensor | None]:
    """Features of real samples that no generation was trained on, and their classes.

    Of a finite source, the lineage's reference, at most so many; of one that never runs out, so
    many, from a place that no lineage gets to, and without classes, which come by chance there.
    """
    if meta.real.size is not None:
        labels = meta.real.reference.labels
        features = meta.measuring.real_features["reference"]
        return features[:most], None if labels is None else labels[:most]
    samples = meta.real.read(_FAR, most)
    facts = [meta.real.digest, meta.evaluator.extractor.protocol(), most, meta.settings.block_size]
    place = meta.data.cache / f"probe-{sha256(repr(facts).encode()).hexdigest()[:12]}"
    return meta.measuring.features({"real": samples}, place, lambda done, all: None)["real"], None
