"""What a lineage costs beside the same mathematics in bare PyTorch.

    python benchmarks/overhead.py                          # all families, a quarter of an hour
    python benchmarks/overhead.py digits_wgan gaussian --generations 5
    python benchmarks/overhead.py digits_glow --epochs 4

Each family is a shipped configuration, shortened to a few epochs and generations. The bare loop is
in this file: the package's networks, its metrics, the same batches, steps, optimiser, average and
solver, ordinary noise, no Lightning, no files. Lineage and bare loop take turns in one process on
one thread, epoch by epoch and then with all the rest of a generation: a machine that others use has
not the same speed for long. What counts is CPU time; the ratio is the median over such pairs, with
the least and the largest. The first pair warms up and is dropped.

A row for a step is what a training step costs in the epochs after the first, at whose end a first
checkpoint is kept (the next one when training has gone on for 200 times as long as it took). A row
for a generation is of the configuration as it is shipped: the first epoch and the rest (starting,
drawing, measuring, the files) as they were, and as many later epochs as it has, each as the median
of those that were run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mad_lightning.commands.train import build
from mad_lightning.generators.mixture import fit
from mad_lightning.generators.stylegan2 import squared_slope
from mad_lightning.loop.admission import admit
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.metrics.base import View
from mad_lightning.samples import Law, Samples, SampleSpec, to_floats, to_stored

HOUSE = Path(__file__).resolve().parent.parent
Step = Callable[[Samples], None]
Draw = Callable[[int, Tensor | None], Tensor]


class Spent(NamedTuple):
    """CPU seconds of a generation: of its epochs, one by one, and of all the rest."""

    epochs: list[float]
    rest: float

    def whole(self, epochs: int) -> float:
        """Of a generation with so many epochs, of which the first one is dearer."""
        if not self.epochs:
            return self.rest
        later = statistics.median(self.epochs[1:]) if epochs > 1 else 0.0
        return self.rest + self.epochs[0] + later * (epochs - 1)


# --- the bare loops -------------------------------------------------------------------------------


def average(net: nn.Module) -> tuple[nn.Module, Callable[[float], None]]:
    """A copy of a network, and what moves it towards the network."""
    from copy import deepcopy

    kept = deepcopy(net).requires_grad_(False).eval()
    averages, weights = list(kept.parameters()), list(net.parameters())

    @torch.no_grad()
    def follow(decay: float) -> None:
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

    return kept, follow


def cosine(optimizer: torch.optim.Optimizer, warmup: int, steps: int) -> Any:
    """A rate that rises for a while and then falls as a cosine."""

    def factor(step: int) -> float:
        rise = (step + 1) / warmup if step < warmup else 1.0
        return rise if step < warmup else 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def bare_glow(glow: Any, spec: SampleSpec, steps: int, first: Samples) -> tuple[Step, Draw]:
    """Maximum likelihood of the package's flow."""
    from mad_lightning.nets.glow import Flow

    net = Flow(spec.shape, glow.levels, glow.couplings, glow.hidden, spec.classes)

    def dequantised(values: Tensor) -> tuple[Tensor, Tensor]:
        x = to_floats(values)
        if spec.kind == "vector":
            return x, x.new_zeros(len(x))
        level = ((x + 1.0) / 2.0 * (2**glow.bits - 1)).round()
        share = 0.05 + 0.9 * (level + torch.rand_like(level)) / 2**glow.bits
        slope = 0.9 / 2**glow.bits / (share * (1.0 - share))
        return torch.logit(share), slope.log().flatten(1).sum(dim=1)

    with torch.no_grad():
        net.inverse(dequantised(first.values)[0], first.labels, initialise=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=glow.lr, weight_decay=0.0, fused=True)
    schedule = cosine(optimizer, glow.warmup, steps)
    kept, follow = average(net)

    def step(batch: Samples) -> None:
        x, log_det = dequantised(batch.values)
        nats = -(net.log_prob(x, batch.labels) + log_det).mean()
        optimizer.zero_grad()
        (nats / math.prod(spec.shape)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), glow.clip_norm)
        optimizer.step()
        schedule.step()
        follow(glow.ema_decay)

    def draw(n: int, labels: Tensor | None) -> Tensor:
        x = kept([torch.randn(n, *shape) for shape in net.latents], labels)
        if spec.kind == "vector":
            return x
        share = (torch.sigmoid(x) - 0.05) / 0.9
        return (share * 2**glow.bits).floor() / (2**glow.bits - 1) * 2.0 - 1.0

    return step, draw


def bare_diffusion(model: Any, spec: SampleSpec, steps: int, _: Samples) -> tuple[Step, Draw]:
    """The package's U-Net, and a solver of diffusers."""
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

    net = model.network(spec)
    alphas = DDPMScheduler(model.timesteps, beta_schedule=model.beta_schedule).alphas_cumprod
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=model.lr, weight_decay=model.weight_decay, fused=True
    )
    schedule = cosine(optimizer, model.warmup, steps)
    kept, follow = average(net)

    def step(batch: Samples) -> None:
        x_0, labels = to_floats(batch.values), batch.labels
        if labels is not None and spec.classes is not None:
            drop = torch.rand(len(labels)) < model.condition_drop
            labels = labels.masked_fill(drop, spec.classes)
        t = torch.randint(model.timesteps, (len(x_0),))
        noise, alpha_bar = torch.randn_like(x_0), alphas[t].view(-1, 1, 1, 1)
        x_t = alpha_bar.sqrt() * x_0 + (1.0 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1.0 - alpha_bar).sqrt() * x_0
        target = velocity if model.prediction == "velocity" else noise
        optimizer.zero_grad()
        F.mse_loss(net(x_t, t, labels), target).backward()
        optimizer.step()
        schedule.step()
        follow(model.ema_decay)

    def draw(n: int, labels: Tensor | None) -> Tensor:
        solver = DPMSolverMultistepScheduler(
            model.timesteps,
            beta_schedule=model.beta_schedule,
            prediction_type="v_prediction" if model.prediction == "velocity" else "epsilon",
            algorithm_type="sde-dpmsolver++",
            thresholding=model.clip,
            sample_max_value=1.0,
            lambda_min_clipped=-5.1,
        )
        solver.set_timesteps(model.sampling_steps)
        x = torch.randn(n, *spec.shape)
        for t in solver.timesteps:
            x = solver.step(kept(x, torch.full((n,), int(t)), labels), t, x).prev_sample
        return x

    return step, draw


def bare_wgan(wgan: Any, spec: SampleSpec, _: int, __: Samples) -> tuple[Step, Draw]:
    """The package's pair of networks; a generator step after every few of the critic."""
    net = wgan.networks(spec)
    of_critic, of_generator = (
        torch.optim.Adam(part.parameters(), lr=wgan.lr, betas=wgan.betas, fused=True)
        for part in (net.critic, net.generator)
    )
    kept, follow = average(net.generator)
    done = 0

    def step(batch: Samples) -> None:
        nonlocal done
        x, labels = to_floats(batch.values), batch.labels
        with torch.no_grad():
            made = net.generator(torch.randn(len(x), net.dim), labels)
        gap = net.critic(x, labels).mean() - net.critic(made, labels).mean()
        share = torch.rand(len(x), *[1] * (x.dim() - 1))
        between = (share * x + (1.0 - share) * made).requires_grad_()
        scores = net.critic(between, labels).sum()
        (slope,) = torch.autograd.grad(scores, between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1.0).square().mean()
        of_critic.zero_grad()
        (wgan.gradient_penalty * penalty - gap).backward()
        of_critic.step()
        done += 1
        if done % wgan.n_critic:
            return
        net.critic.requires_grad_(False)
        made = net.generator(torch.randn(len(x), net.dim), labels)
        of_generator.zero_grad()
        (-net.critic(made, labels).mean()).backward()
        of_generator.step()
        net.critic.requires_grad_(True)
        follow(wgan.ema_decay)

    return step, lambda n, labels: kept(torch.randn(n, net.dim), labels)


def bare_stylegan2(gan: Any, spec: SampleSpec, _: int, __: Samples) -> tuple[Step, Draw]:
    """The package's networks; without path lengths, mixing and augmentation, as configured."""
    from mad_lightning.nets.stylegan2 import Discriminator, StyleNetwork

    net = StyleNetwork(
        spec, gan.dim, gan.mapping_layers, gan.channel_base, gan.channel_max, gan.modulation
    )
    judge = Discriminator(spec, gan.channel_base, gan.channel_max)
    c = gan.r1_every / (gan.r1_every + 1)
    of_net = torch.optim.Adam(net.parameters(), gan.lr, (0.0, 0.99), fused=True)
    of_judge = torch.optim.Adam(judge.parameters(), c * gan.lr, (0.0, 0.99**c), fused=True)
    kept, follow = average(net)
    done = 0

    def made(averaged: Any, n: int, labels: Tensor | None) -> Tensor:
        w = averaged.mapping(torch.randn(n, gan.dim), labels)
        styles = w[:, None].expand(-1, net.synthesis.n_styles, -1)
        return averaged.synthesis(styles, torch.randn(n, net.synthesis.n_noise))

    def step(batch: Samples) -> None:
        nonlocal done
        x, labels, n = to_floats(batch.values), batch.labels, len(batch)
        with torch.no_grad():
            fake = made(net, n, labels)
        of_judge.zero_grad()
        (F.softplus(judge(fake, labels)) + F.softplus(-judge(x, labels))).mean().backward()
        of_judge.step()
        if done % gan.r1_every == 0:
            of_judge.zero_grad()
            penalty = squared_slope(judge, x, labels).mean()
            (0.5 * gan.r1 * gan.r1_every * penalty).backward()
            of_judge.step()
        judge.requires_grad_(False)
        of_net.zero_grad()
        F.softplus(-judge(made(net, n, labels), labels)).mean().backward()
        of_net.step()
        judge.requires_grad_(True)
        done += 1
        half_life = min(gan.ema_half_life, gan.ema_ramp * done * n)
        follow(0.5 ** (n / half_life))

    return step, lambda n, labels: made(kept, n, labels)


class BareGaussian:
    """Mean and covariance; not by steps, but from all samples at once."""

    def __init__(self, x: Tensor) -> None:
        x = x.double()
        self.law = Law(x.mean(dim=0), x.T.cov())

    def draw(self, n: int) -> Tensor:
        """From its law."""
        variances, axes = torch.linalg.eigh(self.law.covariance)
        root = (axes * variances.clamp(min=0.0).sqrt()) @ axes.T
        return self.law.mean + torch.randn(n, len(root)).double() @ root


class BareMixture:
    """The package's expectation-maximisation; from all samples at once."""

    law = None

    def __init__(self, x: Tensor, k: int) -> None:
        self.components, _ = fit(x.double(), k, torch.Generator().manual_seed(0))

    def draw(self, n: int) -> Tensor:
        """A component by its weight, then from its Gaussian."""
        weight, mean, root = self.components.weight, self.components.mean, self.components.root()
        of = torch.multinomial(weight, n, replacement=True)
        x = torch.randn(n, mean.shape[1]).double()
        for k in range(len(weight)):
            x[of == k] = mean[k] + x[of == k] @ root[k]
        return x


STEPS = {
    "Glow": bare_glow,
    "Diffusion": bare_diffusion,
    "WGAN": bare_wgan,
    "StyleGAN2": bare_stylegan2,
}


class Bare:
    """A lineage without a lineage: generation after generation in memory.

    Args:
        loop: Tells data, family and sizes; nothing of it runs but its networks and its metrics.
        epochs: Of a generation.
    """

    def __init__(self, loop: MetaTrainer, epochs: int) -> None:
        self.model, self.epochs = loop.build_generator(), epochs
        self.evaluator, real = loop.evaluator, loop.real
        self.spec, self.block = real.spec, loop.settings.block_size
        self.n = loop.policy.n_draw(1)
        self.batch_size = loop.data.batch_size
        self.images = loop.data.images_per_epoch or self.n
        self.reference = self.view(real.reference, real.law)
        self.samples = real.read(0, self.n)

    @torch.no_grad()
    def view(self, samples: Samples, law: Law | None = None) -> View:
        """Features of samples."""
        self.evaluator.extractor.eval()
        blocks = zip(
            samples.values.split(self.block),
            (samples.labels if samples.labels is not None else samples.values).split(self.block),
            strict=True,
        )
        labelled = samples.labels is not None
        features = torch.cat(
            [self.evaluator.extractor(Samples(x, y if labelled else None)) for x, y in blocks]
        )
        return View(features, law=law, labels=samples.labels)

    def batches(self) -> Iterator[Samples]:
        """An epoch of the endless stream of permutations."""
        steps = math.ceil(self.images / self.batch_size)
        laps = math.ceil(steps * self.batch_size / len(self.samples))
        order = torch.cat([torch.randperm(len(self.samples)) for _ in range(laps)])
        for index in order[: steps * self.batch_size].split(self.batch_size):
            yield self.samples[index]

    def generation(self) -> Generator[None, None, Spent]:
        """Trains, draws, measures; gives way after each epoch."""
        start, law = time.process_time(), None
        labels = None if self.spec.classes is None else torch.arange(self.n) % self.spec.classes
        name, spent, away = type(self.model).__name__, list[float](), 0.0
        if name in STEPS:
            steps = self.epochs * math.ceil(self.images / self.batch_size)
            step, draw = STEPS[name](self.model, self.spec, steps, next(self.batches()))
            for _ in range(self.epochs):
                begun = time.process_time()
                for batch in self.batches():
                    step(batch)
                ended = time.process_time()
                spent.append(ended - begun)
                yield
                away += time.process_time() - ended
            given = [None] * self.n if labels is None else labels
            with torch.no_grad():
                floats = torch.cat(
                    [
                        draw(
                            min(self.block, self.n - at),
                            None if labels is None else given[at : at + self.block],
                        )
                        for at in range(0, self.n, self.block)
                    ]
                )
        else:
            x = self.samples.values
            fitted = (
                BareGaussian(x) if name == "Gaussian" else BareMixture(x, self.model.components)
            )
            floats, law = fitted.draw(self.n), fitted.law
        self.samples = Samples(to_stored(floats, self.spec), labels)
        measured = self.samples[: len(self.reference.features)]
        drawn = self.view(measured, law)
        self.evaluator.compare(self.reference, drawn)
        self.evaluator.errors(self.reference, drawn)
        return Spent(spent, time.process_time() - start - away - sum(spent))


# --- the lineage ----------------------------------------------------------------------------------


class Turns(L.Callback):
    """Times training epochs, with all that happens at their ends, and lets another go on between.

    Args:
        other: Goes on for an epoch of its own.
    """

    def __init__(self, other: Callable[[], None]) -> None:
        self.other, self.epochs, self.away = other, list[float](), 0.0
        self.begun = 0.0

    def _turn(self) -> None:
        self.epochs.append(time.process_time() - self.begun)
        self.other()
        self.away += time.process_time() - self.begun - self.epochs[-1]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the epoch before."""
        if trainer.current_epoch:
            self._turn()
        self.begun = time.process_time()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ends the last one, after what is logged and kept at its end."""
        self._turn()


class Family(NamedTuple):
    """A shipped configuration, and the bar of lineage over bare loop."""

    config: str
    bar: float


FAMILIES = {
    "digits_glow": Family("digits_glow_full_synth", 1.05),
    "digits_diffusion": Family("digits_diffusion_full_synth", 1.05),
    "digits_wgan": Family("digits_wgan_full_synth", 1.15),
    "digits_stylegan": Family("digits_stylegan_full_synth", 1.05),
    "rosenbrock_glow": Family("rosenbrock_glow_full_synth", 1.05),
    "gaussian": Family("gaussian_full_synth", 1.3),
    "grid25_mixture": Family("grid25_mixture_full_synth", 1.3),
}


def pairs(family: Family, epochs: int, generations: int, root: str) -> list[tuple[Spent, Spent]]:
    """Generations of the lineage and of the bare loop in turn, without the first."""
    spent = []
    loop = build(
        [
            "--config", str(HOUSE / "configs" / f"{family.config}.yaml"),
            "--lineage.root", root,
            "--lineage.generations", str(generations + 1),
            "--data.cache", f"{root}/cache",
            "--trainer.max_epochs", str(epochs),
        ]
    )  # fmt: skip
    configured = loop.trainers.build_arguments
    admit(loop)
    loop.make_ready()
    bare = Bare(loop, epochs)
    quiet, free = contextlib.redirect_stdout(io.StringIO()), loop.trainers.freeing()
    with quiet, loop.lineage.held(), loop.watched() as records, free as collect:
        for t in range(1, generations + 2):
            theirs = bare.generation()
            turns = Turns(partial(next, theirs, None))
            if type(bare.model).__name__ in STEPS:
                loop.trainers.build_arguments = lambda with_turns=turns: {
                    **configured(),
                    "callbacks": [with_turns],
                }
            start = time.process_time()
            records.append(loop.generation(t))
            loop.observers.on_generation_end(records[-1], loop.lineage.generation(t))
            collect()
            total = time.process_time() - start - turns.away
            ours = Spent(turns.epochs, total - sum(turns.epochs))
            try:
                next(theirs)
            except StopIteration as end:
                spent.append((ours, end.value))
    return spent[1:]


def report(name: str, what: str, times: list[tuple[float, float]], bar: float | None) -> None:
    """Prints a row."""
    ratios = sorted(own / bare for own, bare in times)
    own, bare = (statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(ratios)
    verdict = "" if bar is None else f"   bar {bar:.2f} {'met' if ratio <= bar else 'MISSED'}"
    print(
        f"{name:17} {what:12} {own * 1e3:9.2f} ms, bare {bare * 1e3:9.2f} ms   "
        f"{ratio:.3f} [{ratios[0]:.3f} .. {ratios[-1]:.3f}]{verdict}",
        flush=True,
    )


def main() -> None:
    """Prints rows for each family."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), choices=[[], *FAMILIES])
    parser.add_argument("--epochs", type=int, default=4, help="of a generation, at least 2")
    parser.add_argument("--generations", type=int, help="pairs; 3, or 20 of families that fit")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.families or FAMILIES:
        family = FAMILIES[name]
        with tempfile.TemporaryDirectory() as root:
            shipped = build(["--config", str(HOUSE / "configs" / f"{family.config}.yaml")])
            shipped_epochs = shipped.trainers.arguments()["max_epochs"]
            is_trained = type(shipped.build_generator()).__name__ in STEPS
            epochs = max(2, chosen.epochs) if is_trained else 1
            n = chosen.generations or (3 if is_trained else 20)
            spent = pairs(family, epochs, n, root)
            data = shipped.data
            if is_trained:
                images = data.images_per_epoch or shipped.policy.n_draw(1)
                steps = math.ceil(images / data.batch_size)
                later = [zip(own.epochs[1:], bare.epochs[1:], strict=True) for own, bare in spent]
                per_step = [(own / steps, bare / steps) for own, bare in chain(*later)]
                report(name, "a step", per_step, None)
                report(name, "the rest", [(own.rest, bare.rest) for own, bare in spent], None)
            whole = [tuple(part.whole(shipped_epochs) for part in pair) for pair in spent]
            report(name, "a generation", whole, family.bar)


if __name__ == "__main__":
    main()
