"""One batch in advance tells what a family logs, and leaves no trace."""

import torch

from mad_lightning.commands.train import build
from mad_lightning.loop.rehearsal import rehearse


def test_a_rehearsal_tells_what_is_logged_and_writes_nothing(arguments, diffusion, tmp_path):
    meta = build([*arguments, *diffusion])
    before = sorted(tmp_path.rglob("*"))
    generator, mix = meta.fresh_generator(1), meta.policy.mix(1)
    first = generator.digest()
    assert rehearse(generator, meta.data, mix, 0) == {"loss"}
    assert generator.digest() != first
    assert sorted(tmp_path.rglob("*")) == before
    assert (meta.data.batch_size, meta.data.images_per_epoch) == (32, 128)
    assert torch.is_grad_enabled()
