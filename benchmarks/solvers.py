"""Solvers of the diffusion family: how near to the data each comes, and at which cost.

    python benchmarks/solvers.py                          # the digits; half an hour of one core
    python benchmarks/solvers.py mnist --root ~/data --schedules squaredcos_cap_v2/velocity
    python benchmarks/solvers.py law                      # a Gaussian, whose score is known

One generator for each noise schedule and prediction, trained as the small fully synthetic lineage
says (and kept below --kept, where a second run finds it; --seed trains another); every solver draws
from it with the same seeds. Distances to the held-out real samples, on the classifier's features,
are means ± standard deviations over the seeds of the samples. Cost is CPU time over that of 500
ancestral steps.

Bar: 15 network calls come at least as near as 500 ancestral steps do, at .05 of their cost. On the
digits they do (.68 of the distance); on MNIST they do not (1.13): configs/README.md has the rows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mad_lightning.commands.train import build
from mad_lightning.generators.diffusion import Diffusion
from mad_lightning.generators.solvers import Solver
from mad_lightning.loop.meta_trainer import MetaTrainer
from mad_lightning.metrics.functional.frechet import frechet_distance
from mad_lightning.metrics.functional.kernel import kernel_distance
from mad_lightning.samples import Samples
from mad_lightning.seeds import normal, sample_seeds

CONFIGS = {"digits": "digits_diffusion_full_synth", "mnist": "mnist_diffusion_full_synth_small"}
SCHEDULES = tuple(
    f"{betas}/{prediction}"
    for betas in ("squaredcos_cap_v2", "linear")
    for prediction in ("velocity", "epsilon")
)
ANCESTRAL = ("ddpm", 500)
SOLVERS = (
    *(("sde_dpm_solver", steps) for steps in (25, 15, 10, 5)),
    *(("dpm_solver", steps) for steps in (25, 15, 10, 5)),
    *(("unipc", steps) for steps in (25, 15, 10, 8, 5)),
    ("ddpm", 25),
)
STEPS = (5, 8, 10, 15, 25, 50, 100, 500)


def lineage(data: str, schedule: str, args: argparse.Namespace) -> MetaTrainer:
    """One generation of the usual lineage, with another noise schedule."""
    betas, prediction = schedule.split("/")
    config = Path(__file__).parents[1] / "configs" / f"{CONFIGS[data]}.yaml"
    meta = build([
        "--config", str(config),
        "--lineage.root", str(args.kept),
        "--lineage.name", f"{data}_{betas}_{prediction}_seed{args.seed}",
        "--seed_everything", str(args.seed),
        "--lineage.generations", "1",
        "--data.cache", str(args.kept / "cache"),
        "--generator.beta_schedule", betas,
        "--generator.prediction", prediction,
        "--callbacks", "[]",
        *(["--data.source.root", str(args.root)] if data == "mnist" else []),
    ])  # fmt: skip
    meta.fit()
    meta.measuring.prepare()  # a lineage that stands has not needed the extractor's weights
    return meta


def trained(meta: MetaTrainer, solver: tuple[str, int]) -> Diffusion:
    """The generator of its first generation, with a solver of its own."""
    generator = meta.fresh_generator(1)
    assert isinstance(generator, Diffusion)
    kept = torch.load(meta.lineage.weights(1), weights_only=True)
    generator.load_state_dict(kept["state_dict"])
    generator.solver = Solver(
        solver[0], generator.beta_schedule, generator.timesteps, solver[1], generator.clip
    )
    return generator.eval()


def drawn(generator: Diffusion, seed: int, n: int, bias: float) -> tuple[Samples, float]:
    """n samples of all classes in turn, and the CPU seconds that they took."""
    seeds, labels = sample_seeds(0, n, seed, "solvers"), torch.arange(n) % 10
    started = time.process_time()
    parts = [
        generator.sample(seeds[rows], bias, labels[rows]).values
        for rows in (slice(start, start + 200) for start in range(0, n, 200))
    ]
    return Samples(torch.cat(parts), labels), time.process_time() - started


def compare(meta: MetaTrainer, bias: float, args: argparse.Namespace) -> None:
    """Prints a row a solver, and the bar."""
    extractor = meta.evaluator.extractor.eval()
    with torch.no_grad():
        real = extractor(meta.real.reference)
    print(f"{'solver':>15} calls    cost          Fréchet             kernel    no further than it")
    costs: dict[tuple[str, int], float] = {}
    distances: dict[tuple[str, int], list[float]] = {}
    for solver in (ANCESTRAL, *SOLVERS):
        generator = trained(meta, solver)
        seconds, kernels, distances[solver] = 0.0, list[float](), []
        for seed in range(args.seeds):
            samples, spent = drawn(generator, seed, args.n, bias)
            with torch.no_grad():
                synthetic = extractor(samples)
            seconds += spent
            distances[solver].append(frechet_distance(real, synthetic))
            kernels.append(kernel_distance(real, synthetic))
        costs[solver] = seconds
        paired = zip(distances[solver], distances[ANCESTRAL], strict=True)
        print(
            f"{solver[0]:>15} {solver[1]:>5}  {seconds / costs[ANCESTRAL]:>6.3f}  "
            f"{spread(distances[solver])}    {spread(kernels)}    "
            f"{sum(own <= its for own, its in paired)} of {args.seeds} seeds",
            flush=True,
        )
    usual = ("sde_dpm_solver", 15)
    nearer = statistics.mean(distances[usual]) / statistics.mean(distances[ANCESTRAL])
    print(
        f"  {usual[0]} in {usual[1]} calls: {nearer:.2f} of the distance of 500 ancestral steps "
        f"(bar: 1) at {costs[usual] / costs[ANCESTRAL]:.3f} of their cost (bar: .05)",
        flush=True,
    )


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):>7.2f} ± {deviation:<6.2f}"


def law(n: int) -> None:
    """Mean and spread of one number's law, drawn with its exact noise: what each solver adds."""
    mean, deviation = 0.3, 0.2
    seeds = sample_seeds(0, n, 0, "law")
    print(f"N({mean}, {deviation}²) from its exact score, n = {n}: ratio of standard deviations")
    print(f"{'solver':>15} " + " ".join(f"{steps:>6}" for steps in STEPS))
    for schedule in ("squaredcos_cap_v2", "linear"):
        for name in ("sde_dpm_solver", "dpm_solver", "unipc", "ddpm"):
            row = [moments(name, schedule, steps, seeds, mean, deviation) for steps in STEPS]
            print(f"{name:>15} " + " ".join(row) + f"  {schedule}", flush=True)


def moments(
    name: str, schedule: str, steps: int, seeds: Tensor, mean: float, deviation: float
) -> str:
    """The ratio of drawn and true standard deviation."""
    solver = Solver(name, schedule, 1000, steps, clip=False)
    alphas_cumprod = solver.alphas_cumprod.double()

    def noise_estimate(x: Tensor, t: int) -> Tensor:
        signal, left = alphas_cumprod[t].sqrt(), 1.0 - alphas_cumprod[t]
        scale = left.sqrt() / (signal**2 * deviation**2 + left)
        return ((x - signal * mean) * scale).to(x.dtype)

    noise = partial(normal, seeds, 1, 1, 1)
    x = solver(noise(), noise_estimate, lambda step: noise(stream=step))
    return f"{float(x.std()) / deviation:>6.3f}"


def main() -> None:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", nargs="?", choices=(*CONFIGS, "law"), default="digits")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where MNIST lies")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=SCHEDULES)
    parser.add_argument("--biases", nargs="+", type=float, default=[1.0, 0.66], help="λ")
    parser.add_argument("--n", type=int, default=400, help="samples a seed")
    parser.add_argument("--seeds", type=int, default=4, help="of the samples")
    parser.add_argument("--seed", type=int, default=0, help="of the generator")
    parser.add_argument("--kept", type=Path, default=Path("runs/solvers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data == "law":
        law(100_000)
        return
    for schedule in args.schedules:
        meta = lineage(args.data, schedule, args)
        for bias in args.biases:
            print(f"{args.data}, {schedule}, λ = {bias}, n = {args.n}")
            compare(meta, bias, args)


if __name__ == "__main__":
    main()
