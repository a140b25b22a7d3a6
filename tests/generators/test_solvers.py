"""Solvers against diffusers' own with the same noise, and against a law whose score is known."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from mad_lightning.generators.solvers import Solver
from mad_lightning.seeds import normal, sample_seeds

SHAPE = (1, 3, 3)
SEEDS = sample_seeds(0, 4, 0, "x")


def noise(step=0, seeds=SEEDS):
    return normal(seeds, *SHAPE, stream=step)


def network(x, t):
    return 0.4 * x + 0.3 * (5.0 * x).sin() + 2e-4 * t


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_stochastic_solver_is_diffusers_with_our_times_and_noise(schedule, clip):
    solver = Solver("sde_dpm_solver", schedule, 200, 12, clip)
    reference = DPMSolverMultistepScheduler(
        200,
        beta_schedule=schedule,
        algorithm_type="sde-dpmsolver++",
        thresholding=clip,
        sample_max_value=1.0,
    )
    reference.set_timesteps(timesteps=solver.even_in_log_snr()[0])
    x = noise()
    for step, t in enumerate(reference.timesteps, start=1):
        x = reference.step(network(x, int(t)), t, x, variance_noise=noise(step)).prev_sample
    torch.testing.assert_close(solver(noise(), network, noise), x, rtol=1e-5, atol=1e-5)


def test_unipc_is_diffusers_on_a_schedule_of_our_times():
    """It takes no list of times: here its whole schedule is ours, below a time that it skips."""
    solver = Solver("unipc", "linear", 200, 8, clip=True)
    times = solver.even_in_log_snr()[0]
    left = torch.cat([torch.tensor([0.99999]), solver.alphas_cumprod[times].flip(0)]).double()
    betas = 1.0 - left / torch.cat([torch.ones(1), left[:-1]])
    reference = UniPCMultistepScheduler(
        9, trained_betas=betas.tolist(), thresholding=True, sample_max_value=1.0
    )
    reference.set_timesteps(8)
    x = noise()
    for ours, t in zip(times, reference.timesteps, strict=True):
        x = reference.step(network(x, ours), t, x).prev_sample
    torch.testing.assert_close(solver(noise(), network, noise), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_dpm_solver_draws_what_lineages_on_disk_have_drawn(schedule):
    """Even in time, from where a cosine schedule has some signal: diffusers' own choice."""
    reference = DPMSolverMultistepScheduler(
        200,
        beta_schedule=schedule,
        thresholding=True,
        sample_max_value=1.0,
        lambda_min_clipped=-5.1 if schedule == "squaredcos_cap_v2" else -float("inf"),
    )
    reference.set_timesteps(15)
    x = noise()
    for t in reference.timesteps:
        x = reference.step(network(x, int(t)), t, x).prev_sample
    drawn = Solver("dpm_solver", schedule, 200, 15, clip=True)(noise(), network, noise)
    assert torch.equal(drawn, x)


def deviation(name, schedule, steps, truth, n=10_000):
    """What is drawn of a standard deviation from the exact noise of N(0.3, truth²)."""
    solver, seeds = Solver(name, schedule, 1000, steps, clip=False), sample_seeds(0, n, 0, "law")
    left = solver.alphas_cumprod.double()

    def exact(x, t):
        mean, variance = left[t].sqrt() * 0.3, left[t] * truth**2 + 1.0 - left[t]
        return ((1.0 - left[t]).sqrt() / variance * (x - mean)).float()

    x = solver(noise(0, seeds), exact, lambda step: noise(step, seeds))
    assert float(x.mean()) == pytest.approx(0.3, abs=0.02)
    return float(x.std()) / truth


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("name", ["sde_dpm_solver", "unipc"])
def test_the_spread_of_a_known_law_is_kept(name, schedule):
    """Within 5 % in 15 steps, within Monte-Carlo error (0.24 %) in many."""
    for truth in (0.05, 0.2, 0.6):
        assert deviation(name, schedule, 15, truth) == pytest.approx(1.0, abs=0.055)
    assert deviation(name, schedule, 150, 0.2) == pytest.approx(1.0, abs=0.01)


def test_steps_even_in_time_lose_spread():
    """The reason why new lineages do not take them; a sampler's bias is a loop's."""
    assert deviation("dpm_solver", "squaredcos_cap_v2", 15, 0.2) < 0.9
    assert deviation("ddpm", "squaredcos_cap_v2", 25, 0.2) < 0.85


@pytest.mark.parametrize("name", ["ddpm", "sde_dpm_solver"])
def test_each_samples_noise_is_its_own(name):
    """The same whatever is drawn beside it, and new at each step."""
    solver, asked = Solver(name, "linear", 100, 6, clip=True), []

    def drawn(seeds):
        def new(step):
            asked.append(step)
            return noise(step, seeds)

        return solver(noise(0, seeds), network, new)

    whole = drawn(SEEDS)
    assert sorted({*asked}) == asked
    assert {*asked} >= {1, 2, 3, 4, 5}
    assert torch.equal(torch.cat([drawn(SEEDS[:1]), drawn(SEEDS[1:])]), whole)
    with_other_noise = solver(noise(), network, lambda step: noise(step + 10))
    assert not torch.allclose(with_other_noise, whole, atol=0.01)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 15), (50, 15), (20, 18), (30, 1)])
def test_times_are_all_different_and_even_in_log_snr(schedule, timesteps, steps):
    solver = Solver("unipc", schedule, timesteps, steps, clip=True)
    times, noise_to_signal = solver.even_in_log_snr()
    assert len(times) == steps
    assert times == sorted({*times}, reverse=True)
    assert times[0] == solver.facts()["first_time"]
    assert times[-1] == 0 or steps == 1
    if timesteps == 1000:
        gaps = -noise_to_signal[times].log().diff()[:-2]  # the last are as fine as times are
        assert float(gaps.max() / gaps.min()) < 1.5


def test_what_decides_numbers_is_told():
    facts = Solver("sde_dpm_solver", "squaredcos_cap_v2", 1000, 15, True).facts()
    assert facts.pop("first_alpha_bar") == pytest.approx(1 / (1 + 2.718281828**10.2), rel=0.2)
    assert facts.pop("last_alpha_bar") == pytest.approx(0.0, abs=1e-8)
    assert facts == {
        "sampler": "sde_dpm_solver",
        "steps": 15,
        "spacing": "log_snr",
        "timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "first_time": 995,
        "clip": True,
    }
    short = Solver("ddpm", "linear", 500, 500, True).facts()
    assert (short["first_time"], short["spacing"]) == (499, "time")
    assert short["first_alpha_bar"] == short["last_alpha_bar"] == pytest.approx(0.0064, abs=1e-4)
