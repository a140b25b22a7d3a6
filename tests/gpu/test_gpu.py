"""What only a GPU can show; ``python -m pytest -m gpu tests/gpu`` where there is one.

Nobody has run these yet: they wait for a GPU. What needs none is in ``tests/on_fake_gpu.py``.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import families
import lightning as L
import pytest
import torch

from mad_lightning.commands.train import build
from mad_lightning.generators import Glow
from mad_lightning.samples import SampleSpec
from mad_lightning.seeds import drawn, normal, sample_seeds, uniform

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
ROOT = Path(__file__).parents[2]
ON_GPU = {"accelerator": "cuda", "devices": 1}
IMAGES = [name for name, (_, shape) in families.FAMILIES.items() if len(shape) == 3]


class NoWaits(L.Callback):
    """From the third step on, what would wait for the device fails."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 1 else "default")

    def on_train_batch_end(self, *args):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("classes", [None, 3], ids=["unlabelled", "labelled"])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_no_step_waits_and_samples_are_those_of_a_cpu(name, classes):
    make, shape = families.FAMILIES[name]
    generator = families.trained(make, SampleSpec(shape, classes), ON_GPU, NoWaits())
    seeds, labels = sample_seeds(0, 64, "drawn"), None if classes is None else torch.arange(64) % 3
    at_home = generator.cpu().sample(seeds, labels=labels).values
    there = generator.cuda().sample(seeds, labels=labels).values
    in_parts = generator.sample(seeds[10:23], labels=None if classes is None else labels[10:23])
    if at_home.ndim == 2:
        torch.testing.assert_close(there, at_home, rtol=1e-3, atol=1e-3)
        return
    for a, b in ((there, at_home), (in_parts.values, there[10:23])):
        levels = (a.int() - b.int()).abs()
        assert int(levels.max()) <= 1
        assert float((levels > 0).float().mean()) < 1e-3


def test_noise_is_the_same_to_rounding():
    seeds = sample_seeds(0, 2**10, "noise")
    there = sample_seeds(0, 2**10, "noise", device=torch.device("cuda", 0))
    assert torch.equal(there.cpu(), seeds)
    asked = [(normal, (2**12,), 1), (uniform, (2**12,), 2)]
    for a, b in zip(drawn(seeds, *asked), drawn(there, *asked), strict=True):
        differs = a != b.cpu()
        assert float(differs.float().mean()) < 1e-6
        assert float((a - b.cpu()).abs().max()) < 1e-6


def test_a_flow_undoes_what_it_has_done_where_tf32_is_on():
    torch.manual_seed(0)
    glow = Glow(levels=2, couplings=4, hidden=16).build(SampleSpec((3, 8, 8)))
    glow.initialise(families.some(glow.spec, 64))
    with torch.no_grad():
        for parameter in glow.net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        flow, x = glow.cuda().net, torch.rand(16, 3, 8, 8, device="cuda") - 0.5
        before = torch.backends.cudnn.conv.fp32_precision
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        try:
            assert float((flow(flow.inverse(x)[0]) - x).abs().max()) < 1e-4
        finally:
            torch.backends.cudnn.conv.fp32_precision = before


@pytest.mark.parametrize("name", ["diffusion", "glow", "wgan", "stylegan2"])
def test_a_deterministic_training_has_the_same_bits_twice(name, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    make, shape = families.FAMILIES[name]
    where = {**ON_GPU, "deterministic": True}
    try:
        twice = [families.trained(make, SampleSpec(shape, 3), where).cpu() for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert twice[0].digest() == twice[1].digest()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_family_trains_in_16_bits_and_draws_in_32(name, precision):
    make, shape = families.FAMILIES[name]
    spec = SampleSpec(shape)
    generator = families.trained(make, spec, {**ON_GPU, "precision": precision}).cuda()
    seeds = sample_seeds(0, 8, "drawn")
    plain = copy.deepcopy(generator).sample(seeds).values
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(generator.sample(seeds).values, plain)


def test_a_lineage_goes_on_where_it_was(arguments, diffusion):
    given = [*arguments, *diffusion, "--trainer.accelerator", "cuda", "--trainer.devices", "1"]
    given += ["--lineage.generations", "2"]
    (first, *_) = build([*given, "--lineage.generations", "1"]).fit()
    again, second = build(given).fit()
    assert again.digests == first.digests
    assert second.environment["device"] == torch.cuda.get_device_name()


def test_one_process_of_nccl(arguments, diffusion):
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "1", "train.py"]
    on_gpu = ["--trainer.accelerator", "cuda", "--trainer.devices", "1"]
    done = subprocess.run(
        [sys.executable, *command, *arguments, *diffusion, *on_gpu, "--trainer.strategy", "ddp"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "destroy_process_group" not in done.stderr
