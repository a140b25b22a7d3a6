"""What both GANs stand on: hand-made optimiser steps, noise by row, epoch means, two processes."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mad_lightning.generators.adversarial import Adversarial
from mad_lightning.refusal import Refused
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import normal, sample_seeds


class Toy(Adversarial):
    """Two layers; ``first`` learns on every batch, ``second`` on every third."""

    def __init__(self, accumulate=1, spoil=None):
        super().__init__(accumulate)
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.spoil = spoil
        self.steps, self.graded = [], []
        self.build(SampleSpec((4,)))

    def build(self, spec):
        self.spec = spec
        return self

    def draw(self, seeds, sampling_bias, labels):
        return normal(seeds, 4)

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.first, self.second)]

    def loss(self, part, seeds):
        x = to_floats(part.values).to(self.dtype)
        return (self.second(self.first(x)) + normal(seeds, 4).to(self.dtype)).square().mean()

    def training_step(self, batch, batch_idx):
        self.steps.append(self.step)
        pairs = [("first", self.first), ("second", self.second)]
        for (name, net), optimizer in zip(pairs, self.optimizers(), strict=True):
            if name == "second" and self.step % 3:
                continue
            with self.updating(optimizer, net):
                for part, seeds in self.parts(batch, name):
                    loss = self.loss(part, seeds)
                    self.note(**{name: loss * (self.spoil or 1.0)})
                    self.manual_backward(loss / self.accumulate)
            self.graded.append({n for n, p in self.named_parameters() if p.grad is not None})


def rows(rank=0, world_size=1):
    """Four batches of 8 rows, of which a process takes its own."""
    x = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1))
    return [Samples(batch.tensor_split(world_size)[rank]) for batch in x]


# --- steps ----------------------------------------------------------------------------------------


def test_batches_are_counted_over_epochs_and_a_resumed_training_goes_on(tmp_path, fit, weights):
    whole = Toy()
    assert fit(whole, rows(), 3).global_step == 12 + 4  # Lightning counts each optimiser's
    assert whole.steps == list(range(12))
    begun, resumed = Toy(), Toy()
    fit(begun, rows()).save_checkpoint(tmp_path / "last.ckpt")
    fit(resumed, rows(), 3, tmp_path / "last.ckpt")
    assert resumed.steps == list(range(4, 12))
    assert torch.equal(weights(resumed), weights(whole))


def test_an_update_moves_one_network_only_and_leaves_the_other_without_gradient(fit, weights):
    module = Toy()
    seen = []
    original = module.updating

    def watched(optimizer, network):
        seen.append([weights(net).clone() for net in (module.first, module.second)])
        return original(optimizer, network)

    module.updating = watched
    fit(module, rows())
    seen.append([weights(net) for net in (module.first, module.second)])
    assert len(seen) == 7  # 4 steps of the first, 2 of the second, and the end
    for place, (before, after) in enumerate(pairwise(seen)):
        is_second = place in (1, 5)
        assert torch.equal(before[0], after[0]) is is_second
        assert torch.equal(before[1], after[1]) is not is_second
    assert module.graded[0] == {"first.weight", "first.bias"}
    assert all(p.requires_grad for p in module.parameters())


def test_the_steps_are_those_of_plain_gradient_descent(fit, weights):
    """A bare loop in float64, without Lightning."""
    module, bare = Toy(), Toy().double()
    fit(module, rows(), 2, precision="64-true")
    batches = rows()
    for step in range(8):
        for name, net in [("first", bare.first), ("second", bare.second)]:
            if name == "second" and step % 3:
                continue
            x = batches[step % 4].values.double()
            seeds = sample_seeds(0, 8, module._address, name, step)
            loss = (bare.second(bare.first(x)) + normal(seeds, 4).double()).square().mean()
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    torch.testing.assert_close(weights(module), weights(bare), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_changes_nothing_but_memory(parts, fit, weights):
    one, several = Toy(), Toy(parts)
    for module in (one, several):
        fit(module, rows(), 2, precision="64-true")
    torch.testing.assert_close(weights(one), weights(several), rtol=1e-12, atol=1e-12)


def test_two_steps_of_one_network_in_a_batch_use_the_weights_of_the_moment(fit, weights):
    """Under autocast, which keeps half-precision copies of weights for as long as a batch lasts."""

    class Twice(Toy):
        def training_step(self, batch, batch_idx):
            x = to_floats(batch.values)
            optimizer = self.optimizers()[0]
            for _ in range(2):
                with self.updating(optimizer, self.first):
                    self.manual_backward(self.first(x).float().square().mean())

    module, bare = Twice(), Twice()
    fit(module, rows(), precision="bf16-mixed")
    for batch in rows():
        for _ in range(2):
            w, b = (value.detach().bfloat16().requires_grad_() for value in bare.first.parameters())
            F.linear(batch.values.bfloat16(), w, b).float().square().mean().backward()
            with torch.no_grad():
                bare.first.weight -= 0.1 * w.grad.float()
                bare.first.bias -= 0.1 * b.grad.float()
    torch.testing.assert_close(weights(module.first), weights(bare.first), rtol=1e-3, atol=1e-3)


# --- noise ----------------------------------------------------------------------------------------


def attached(module, rank=0, world_size=1, step=0):
    """A module that believes to be a process of a training."""
    module._trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    module._address, module._step = 5, step
    return module


def seeds_of(accumulate=1, purpose="critic", n=8, rank=0, world_size=1, step=0):
    module = attached(Toy(accumulate), rank, world_size, step)
    batch = Samples(torch.arange(n * 4.0).view(n, 4))
    parts = list(module.parts(batch, purpose))
    assert torch.equal(torch.cat([part.values for part, _ in parts]), batch.values)
    assert {len(part) for part, _ in parts} == {n // accumulate}
    return torch.cat([seeds for _, seeds in parts]).tolist()


def test_a_row_of_the_joined_batch_has_its_seed_whoever_works_on_it():
    whole = seeds_of()
    assert len(set(whole)) == 8
    assert seeds_of(4) == whole
    assert seeds_of(n=4) + seeds_of(2, n=4, rank=1, world_size=2) == whole


def test_updates_have_noise_of_their_own():
    draws = [
        tuple(seeds_of(purpose=purpose, step=step))
        for purpose in ("critic", "generator")
        for step in range(3)
    ]
    assert len({seed for seeds in draws for seed in seeds}) == 6 * 8


def test_two_trainings_have_different_noise_and_one_repeats_its_own(fit):
    addresses = []
    for t in (1, 1, 2):
        module = Toy()
        fit(module, rows(), address=(0, t))
        addresses.append(module._address)
    assert addresses[0] == addresses[1] != addresses[2]


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_that_make_no_equal_parts_are_refused(world_size):
    module = attached(Toy(3), world_size=world_size)
    with pytest.raises(Refused, match=f"multiple of {3 * world_size}") as caught:
        list(module.parts(Samples(torch.zeros(8, 4)), "critic"))
    assert caught.value.field == "accumulate"
    with pytest.raises(Refused, match="accumulate"):
        Toy(0)


# --- what is logged -------------------------------------------------------------------------------


def test_what_was_noted_is_logged_as_the_mean_of_the_epoch(fit):
    module = Toy(2)
    losses = []
    original = module.loss

    def kept(part, seeds):
        losses.append(original(part, seeds))
        return losses[-1]

    module.loss = kept
    made = fit(module, rows())
    # steps 0 and 3 train both, two parts each: f f s s f f f f f f s s
    first = [0, 1, 4, 5, 6, 7, 8, 9]
    means = {
        "first": sum(losses[i].item() for i in first) / 8,
        "second": sum(losses[i].item() for i in range(12) if i not in first) / 4,
    }
    logged = {name: value.item() for name, value in made.callback_metrics.items()}
    assert logged == pytest.approx(means, rel=1e-5)


def test_every_epoch_has_a_mean_of_its_own(fit):
    class Counts(Toy):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.note(epoch=torch.tensor(float(self.trainer.current_epoch)))

    assert fit(Counts(), rows(), 3).callback_metrics["epoch"] == 2.0


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_divergence_is_an_error_that_names_the_loss(spoil, fit):
    with pytest.raises(FloatingPointError, match=r"Toy has diverged: the mean of first in epoch 0"):
        fit(Toy(spoil=spoil), rows())


# --- two processes --------------------------------------------------------------------------------


def two_processes(train, accumulate):
    """Runs in each of two processes."""
    module = Toy(accumulate)
    return module, train(module, rows, 2, precision="64-true", devices=2, strategy="ddp")


@pytest.mark.ddp
def test_two_processes_train_the_network_of_one(fit, run_two):
    one = Toy()
    logged = fit(one, rows(), 2, precision="64-true").callback_metrics
    for state in run_two().values():
        torch.testing.assert_close(state["weights"], one.state_dict(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state["logged"], dict(logged), rtol=1e-5, atol=1e-6)
