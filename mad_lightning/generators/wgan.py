r"""The WGAN-GP family (Gulrajani et al., 2017): a generator against a critic of bounded slope.

The critic :math:`D` learns to score real samples above generated ones. Were its slope 1, the gap of
the mean scores would be the Wasserstein-1 distance between the two laws; a penalty holds the slope
near 1 on the straight lines between them,

.. math:: E[D(\tilde x)] - E[D(x)] + \gamma\,E[(\lVert\nabla D(\hat x)\rVert_2 - 1)^2],
   \qquad \hat x = \epsilon x + (1 - \epsilon)\tilde x

(equation 3; the paper calls the weight λ, here λ is the sampling bias). The generator then follows
the critic's slope uphill. The critic must lead: it learns on every batch, the generator on every
``n_critic``-th one (algorithm 1), so that a budget in images counts the critic's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from mad_lightning.generators.adversarial import Adversarial
from mad_lightning.generators.base import try_network
from mad_lightning.nets.ema import EMA
from mad_lightning.nets.pairs import ConvPair, Pair
from mad_lightning.refusal import Refused, at, check_within
from mad_lightning.samples import Samples, SampleSpec, to_floats
from mad_lightning.seeds import drawn, normal, uniform

__all__ = ["WGAN"]


class WGAN(Adversarial):
    r"""WGAN-GP, conditional on the class where samples carry one.

    λ scales the covariance of the latent, :math:`z \sim \mathcal N(0, \lambda I)`, as for the flow.
    (Alemohammad et al., 2023, sample this family without bias; the choice is ours.)

    Args:
        networks: Makes generator and critic from a :class:`SampleSpec`.
        n_critic: Critic steps for one generator step; the paper takes 5.
        gradient_penalty: Its weight γ; the paper takes 10.
        lr: Learning rate of both Adams.
        betas: Their decay rates; the paper takes (0, 0.9).
        ema_decay: Decay of the generator's averaged weights, which are sampled from; 0 samples from
            the trained ones.
        accumulate: Parts that a batch is worked off in, to save memory.
        compile: Compile both networks when training starts; the penalty stays uncompiled.

    Example:
        >>> x, y = 2.0 * torch.rand(64, 1, 8, 8) - 1.0, torch.arange(64) % 10
        >>> wgan = WGAN(n_critic=2).build(SampleSpec.of(x, y))
        >>> L.Trainer(max_epochs=2).fit(wgan, DataLoader(TensorDataset(x, y), batch_size=32))
        >>> wgan.sample(seeds=torch.arange(5), labels=torch.arange(5)).values.shape
        torch.Size([5, 1, 8, 8])
    """

    batches_at_once = 16

    def __init__(
        self,
        networks: Callable[[SampleSpec], Pair] = ConvPair,
        n_critic: int = 5,
        gradient_penalty: float = 10.0,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.0, 0.9),
        ema_decay: float = 0.999,
        accumulate: int = 1,
        compile: bool | None = None,
    ) -> None:
        super().__init__(accumulate)
        check_within("[1, 10000]", "the paper takes 5", n_critic=n_critic)
        check_within("[0, 1000000]", "the paper takes 10", gradient_penalty=gradient_penalty)
        check_within("(0, inf)", "e.g. 1e-4", lr=lr)
        check_within("[0, 1)", "the paper takes 0 and 0.9", betas=betas)
        check_within("[0, 1)", "e.g. 0.999", ema_decay=ema_decay)
        self.networks = networks
        self.n_critic, self.gradient_penalty = n_critic, gradient_penalty
        self.lr, self.betas = lr, (float(betas[0]), float(betas[1]))  # Adam wants no whole numbers
        self.ema_decay, self.compiles = ema_decay, compile

    def build(self, spec: SampleSpec) -> Self:
        """Makes both networks, and the generator's average."""
        self.spec = spec
        with at("networks"):
            self.net = self.networks(spec)
            self._try_networks()
        self.ema = EMA(self.net.generator, self.ema_decay)
        return self

    def _try_networks(self) -> None:
        """Calls both once."""
        missing = [name for name in ("dim", "generator", "critic") if not hasattr(self.net, name)]
        if missing:
            raise Refused(
                "",
                f"{type(self.net).__name__} has no {' and no '.join(missing)}",
                "take a pair, e.g. ConvPair, or a module with the attributes of one",
            )
        labels = None if self.spec.classes is None else torch.tensor([0, self.spec.classes - 1])
        shape = self.spec.shape
        z, x = torch.zeros(2, self.net.dim), torch.zeros(2, *shape)
        try_network(self.net.generator, "generator(z, labels)", shape, z, labels)
        try_network(self.net.critic, "critic(x, labels)", (), x, labels)

    def configure_optimizers(self) -> Any:
        """Two Adams: the critic's, the generator's."""
        return [
            torch.optim.Adam(network.parameters(), self.lr, self.betas, fused=self.fuses(network))
            for network in (self.net.critic, self.net.generator)
        ]

    def sampler(self) -> dict[str, Any]:
        """The biases besides λ."""
        return {"latent": f"normal {self.net.dim}", "weights": f"ema {self.ema_decay}"}

    # training

    def to_compile(self) -> Sequence[nn.Module]:
        """Both; the penalty, which differentiates twice, then goes round ``__call__``."""
        return (self.net.generator, self.net.critic)

    def from_average(self) -> None:
        """Starts from the averaged generator, and the critic as it is."""
        self.ema.restart(self.net.generator)

    def on_train_end(self) -> None:
        """Warns of a budget in which the generator never moved."""
        if 0 < self.batches < self.n_critic:
            rank_zero_warn(
                f"the generator learns on every {self.n_critic}th batch, training had "
                f"{self.batches}: it keeps its first weights (train for more epochs, or on more "
                "batches an epoch)"
            )

    def training_step(self, batch: Samples, batch_idx: int) -> None:
        """A step of the critic, and one of the generator on every ``n_critic``-th batch."""
        critic_optimizer, generator_optimizer = cast(list[LightningOptimizer], self.optimizers())
        for one in self.in_turn(batch):
            with self.updating(critic_optimizer, self.net.critic):
                for real, z, share in self.parts(one, "critic"):
                    self.manual_backward(self.critic_loss(real, z, share) / self.accumulate)
            if "generator" not in self.updates(self.step):
                continue
            with self.updating(generator_optimizer, self.net.generator):
                for real, z, _ in self.parts(one, "generator"):
                    self.manual_backward(self.generator_loss(real, z) / self.accumulate)
            self.ema.update(self.net.generator)

    def updates(self, step: int) -> tuple[str, ...]:
        """The generator moves on every ``n_critic``-th batch."""
        return ("critic",) if (step + 1) % self.n_critic else ("critic", "generator")

    def noise(self, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (n, dim), and places (n,) between real and generated, from 0 to 1."""
        z, share = drawn(seeds, (normal, (self.net.dim,), 0), (uniform, (), 1))
        return z.to(self.dtype), share.to(self.dtype)

    def critic_loss(self, real: Samples, z: Tensor, share: Tensor) -> Tensor:
        """Equation 3; generated samples are of the real ones' classes."""
        x, labels = to_floats(real.values).to(self.dtype), real.labels
        with torch.no_grad():
            generated = self.net.generator(z, labels).to(self.dtype)
        distance = self.net.critic(x, labels).mean() - self.net.critic(generated, labels).mean()
        share = share.view(-1, *[1] * (x.dim() - 1))
        penalty = self.penalty(share * x + (1.0 - share) * generated, labels)
        self.note(wasserstein=distance, penalty=penalty)
        return self.gradient_penalty * penalty - distance

    def penalty(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Mean squared distance of the critic's slope from 1.

        A slope is a small difference of large numbers: it is never taken in half precision.
        """
        with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
            x = x.requires_grad_()
            critic = self.net.critic
            scores = (critic.forward if self.compiles else critic)(x, labels)
            (gradient,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            slope = gradient.flatten(1).norm(dim=1)
            return (slope - 1.0).square().mean()

    def generator_loss(self, real: Samples, z: Tensor) -> Tensor:
        """Minus the score of generated samples (algorithm 1, line 12)."""
        generated = self.net.generator(z, real.labels)
        loss = -self.net.critic(generated, real.labels).mean()
        self.note(generator_loss=loss)
        return loss

    def latents(self, seeds: Tensor, sampling_bias: float = 1.0) -> Tensor:
        """Draws z from N(0, λI), with shape (N, dim)."""
        return normal(seeds, self.net.dim).to(self.dtype) * sampling_bias**0.5

    # sampling

    def draw(self, seeds: Tensor, sampling_bias: float, labels: Tensor | None) -> Tensor:
        """One pass of the averaged generator, in full precision however it was trained."""
        with torch.autocast(self.device.type, enabled=False):
            return self.ema(self.latents(seeds, sampling_bias), labels)
