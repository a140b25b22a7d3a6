"""What becomes of drawn samples before later generations may eat them.

A phase like the others: its artefact is another shard, ``003.kept`` beside ``003``, whose manifest
tells what it was made of. Features are computed on all processes, block by block; the treatment
itself is a pure function of them and of an address, which the first process calls.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from mad_lightning.callbacks.base import Observers
from mad_lightning.data.datamodule import GenerationDataModule
from mad_lightning.data.shards import Shard, ShardManifest
from mad_lightning.files import Damaged
from mad_lightning.identity import description
from mad_lightning.loop.measuring import Measuring
from mad_lightning.loop.store import Store
from mad_lightning.metrics.features.plain import Identity
from mad_lightning.policies import LoopPolicy, shard_name
from mad_lightning.processes import from_first, is_first, on_first
from mad_lightning.refusal import Refused, at
from mad_lightning.samples import Parts, Samples, to_floats
from mad_lightning.treatments.base import Candidates, Own, Treatment, right, treated
from mad_lightning.treatments.scores import OwnScore

__all__ = ["KEPT", "Treating", "rates"]

KEPT = "kept"
"""How the shard is called that a treatment left, after its generation."""
_HOUSE = f"{__package__.partition('.')[0]}."
_N_TRIAL = 16


class Treating:
    """Treats the shards of one lineage.

    Args:
        treatment: What is done; None: nothing, and what was drawn is published.
        policy: Tells how many samples later generations take.
        data: The real data.
        seed: The lineage's seed.
        store: The lineage's shards.
        measuring: Computes features, and tells how many samples are measured.
        observers: Are told how far it is.
    """

    def __init__(
        self,
        treatment: Treatment | None,
        policy: LoopPolicy,
        data: GenerationDataModule,
        seed: int,
        store: Store,
        measuring: Measuring,
        observers: Observers,
    ) -> None:
        self.treatment, self.policy, self.data, self.seed = treatment, policy, data, seed
        self.store, self.lineage = store, store.lineage
        self.measuring, self.observers = measuring, observers

    @property
    def name(self) -> str:
        """How published shards are called beside those drawn; empty: they are the same."""
        return "" if self.treatment is None else KEPT

    @property
    def n_real(self) -> int:
        """Real samples at the end of the pool that it has for itself."""
        return 0 if self.treatment is None else self.treatment.n_real

    def n_kept(self, t: int) -> int:
        """Samples of generation ``t`` that are published, for those after it and to be measured."""
        return self.measuring.n_needed(t)

    def n_drawn(self, t: int) -> int:
        """Samples that generation ``t`` draws."""
        n = self.n_kept(t)
        return n if self.treatment is None else self.treatment.n_candidates(n)

    def n_stored(self, t: int) -> int:
        """Samples of generation ``t`` that are stored, drawn and kept."""
        return self.n_drawn(t) + (0 if self.treatment is None else self.n_kept(t))

    def check(self, generations: int) -> None:
        """Refuses a treatment that does not fit the data, or that looks where it is measured.

        Raises:
            Refused: With one of its own parameters, or none.
        """
        if (treatment := self.treatment) is None:
            return
        real, evaluator = self.data.real(self.seed), self.measuring.evaluator
        treatment.check(real.spec)
        measured, seen = evaluator.extractor, treatment.features
        same = type(seen) is type(measured)
        if seen is None and treatment.looks and real.spec.kind == "image":
            same = isinstance(measured, Identity)  # which is what it sees
        if same:
            raise Refused(
                "features",
                f"{measured.name} features, by which this lineage is measured: what is selected by "
                "a measure is good by it, whatever it is",
                "choose another extractor, here or for the evaluator"
                + (", or leave `features` out" if seen is not None else ""),
            )
        if (n := treatment.n_real) and real.size is not None:
            eaten = self.policy.n_pool(generations)
            if eaten + n > real.size:
                raise Refused(
                    "n_real",
                    f"{n}, and the lineage trains on {eaten} of the {real.size} real samples in "
                    f"the pool: {max(0, real.size - eaten)} are left",
                    "take fewer, or train on fewer: what judges samples has real ones of its own",
                )

        self.rehearse()

    def rehearse(self) -> None:
        """Tries a treatment of the user's own on a few real samples: what it returns is seen then.

        Raises:
            Refused: If it returns what is none.
        """
        treatment, real = self.treatment, self.data.real(self.seed)
        own = any(map(_is_own, (treatment, getattr(treatment, "score", None))))
        if treatment is None or not own or treatment.features is not None:
            return
        n = treatment.n_candidates(_N_TRIAL)
        samples = real.read(0, n if real.size is None else min(n, real.size))
        features = to_floats(samples.values).flatten(1)
        candidates = Candidates(
            samples.values,
            features,
            samples.labels,
            (self.seed, 1, "treatment"),
            min(_N_TRIAL, len(samples)),
            samples if treatment.n_real else None,
            features if treatment.n_real else None,
        )
        try:
            treated(treatment(candidates), candidates, real.spec)
        except Refused as refused:  # of so few it may well keep too few
            if refused.field != "candidates":
                raise

    def prepare(self) -> None:
        """Finds or makes the weights of its extractor.

        Raises:
            Refused: If they cannot be had, or the extractor cannot look at such samples.
        """
        if self.treatment is None or self.treatment.features is None:
            return
        real = self.data.real(self.seed)
        with at("treatment.features"):
            self.treatment.features.prepare(real.lessons, real.spec, real.digest, self.data.cache)

    def treat(self, t: int, drawn: Shard) -> Shard:
        """Treats what a generation drew, unless that stands -> what is published."""
        if (treatment := self.treatment) is None:
            return drawn
        name = shard_name(t, KEPT)
        kept, made_of = self.store[name], self.made_of(t, drawn)
        if from_first(partial(_stands, kept, made_of)):
            return self.store.seen_by_all(name)
        with on_first(self.lineage.timed(t, "treat")) as tick:
            candidates = self.candidates(t, drawn, tick)
            from_first(partial(self.leave, treatment, candidates, drawn, kept, made_of))
        return self.store.seen_by_all(name)

    def leave(
        self, treatment: Treatment, candidates: Candidates, drawn: Shard, kept: Shard, made_of: str
    ) -> None:
        """Treats candidates, and writes what is left of them.

        Raises:
            Refused: If the treatment says what is none, or keeps too few.
        """
        with at("treatment"):
            said = treated(treatment(candidates), candidates, drawn.spec)
        places, t = said.places, drawn.manifest.generation
        assert places is not None  # in full
        samples: Samples = Parts([drawn.samples], places)
        if said.values is not None:
            samples = Samples(said.values, samples.labels)
        samples.weights = said.weights
        manifest = replace(
            drawn.manifest,
            name=shard_name(t, KEPT),
            parents=(shard_name(t),),
            treatment={
                **description(treatment),
                "made_of": made_of,
                "changed": said.values is not None,
                "weighted": said.weights is not None,
                **rates(candidates, places),
            },
        )
        kept.write(samples, manifest, lasting=False)

    def made_of(self, t: int, drawn: Shard) -> str:
        """Digest of what decides the kept shard, beside the program itself."""
        facts = [
            description(self.treatment),
            drawn.manifest.sha256,
            self.data.real(self.seed).content,
            self.seed,
            t,
            self.n_kept(t),
        ]
        return sha256(json.dumps(facts).encode()).hexdigest()

    def candidates(self, t: int, drawn: Shard, tick: Any) -> Candidates:
        """What the treatment looks at; the features are those of the first process only."""
        treatment = self.treatment
        assert treatment is not None
        samples, real = drawn.samples, self.data.real(self.seed).kept_back(treatment.n_real)
        sides = {"drawn": samples} | ({"own": real} if real is not None else {})
        if treatment.features is None:
            wanted = is_first() and (treatment.sees or treatment.n_real > 0)
            floats = (to_floats(side.values).flatten(1) for side in sides.values() if wanted)
            features = dict(zip(sides, floats, strict=False))
        else:
            place = self.lineage.unfinished(t, "features") / f"treated-{drawn.manifest.sha256[:12]}"
            progress = self.observers.progress(t, "treat", tick)
            features = self.measuring.features(
                sides, place, progress, passing=True, extractor=treatment.features
            )
        return Candidates(
            samples.values,
            features.get("drawn", torch.empty(len(samples), 0)),
            samples.labels,
            (self.seed, t, "treatment"),
            self.n_kept(t),
            real,
            features.get("own"),
        )


def _stands(kept: Shard, made_of: str) -> bool:
    """Whether a kept shard is there, whole, and made of these."""
    try:
        if kept.exists and kept.manifest.treatment.get("made_of") == made_of:
            _ = kept.samples
            return True
    except (FileNotFoundError, Damaged):
        pass
    return False


def rates(drawn: Candidates, places: Tensor) -> dict[str, Any]:
    """How many candidates were kept: of all, of each class, of right and of wrong ones.

    Args:
        drawn: The candidates.
        places: Of those that are kept.

    Returns:
        ``candidates``, ``kept`` and the ``keep_rate``; where there are classes, ``by_class``, rates
        in their order, None of one that was not drawn; where the treatment can tell, the share of
        candidates that are ``right``, and the shares ``phi`` of right and ``psi`` of wrong ones
        that are kept, None where there are none.
    """
    n = len(drawn)
    told: dict[str, Any] = {"candidates": n, "kept": len(places), "keep_rate": len(places) / n}
    times = torch.bincount(places, minlength=n)
    is_kept = times > 0

    def rate(of: Tensor) -> float | None:
        return float(is_kept[of].double().mean()) if bool(of.any()) else None

    if drawn.labels is not None:
        k = int(drawn.labels.max()) + 1
        told["by_class"] = [rate(drawn.labels == c) for c in range(k)]
    if (true := right(drawn)) is not None:
        told |= {"right": float(true.double().mean()), "phi": rate(true), "psi": rate(~true)}
    return told


def told_rates(manifest: ShardManifest) -> dict[str, Any]:
    """What a ledger tells of a treatment."""
    hidden = ("made_of", "init_args")
    return {name: value for name, value in manifest.treatment.items() if name not in hidden}


def _is_own(part: object) -> bool:
    """Whether it is of the user's own, or calls what is."""
    is_ours = part is None or type(part).__module__.startswith(_HOUSE)
    return isinstance(part, Own | OwnScore) or not is_ours
