"""What is promised exactly holds when everything around it is rounded."""

from contextlib import suppress

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mad_lightning.generators.glow import Glow
from mad_lightning.metrics.features.base import FeatureExtractor
from mad_lightning.precision import full_products, keeping_kinds, true_float32
from mad_lightning.samples import SampleBlock, Samples, SampleSpec

aten = torch.ops.aten
PRODUCTS = (aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.baddbmm)


def rounded(x):
    """Float32 with 10 bits of mantissa, to nearest, as TF32 has it."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x0FFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class TF32(TorchDispatchMode):
    """A GPU that multiplies in TF32 unless somebody has asked for more."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in PRODUCTS:
            backends = torch.backends
            place = (
                backends.cudnn.conv
                if function.overloadpacket is aten.convolution
                else backends.cuda.matmul
            )
            if place.fp32_precision != "ieee":
                args = [
                    rounded(x) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x
                    for x in args
                ]
        return function(*args, **(kwargs or {}))


@pytest.fixture
def flow():
    torch.manual_seed(0)
    flow = Glow(levels=2, couplings=4, hidden=16).build(SampleSpec((3, 8, 8), None))
    flow.initialise(Samples(torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8)))
    with torch.no_grad():
        for parameter in flow.net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return flow.net


def round_trip(flow):
    torch.manual_seed(1)
    x = torch.rand(16, 3, 8, 8) - 0.5
    with torch.no_grad(), TF32():
        latents, _ = flow.inverse(x)
        return float((flow(latents) - x).abs().max())


def test_a_flow_undoes_what_it_has_done_on_a_device_that_rounds(flow):
    assert round_trip(flow) < 1e-4
    inverse, forward = type(flow).inverse.__wrapped__, type(flow).forward.__wrapped__
    unguarded = type("Unguarded", (), {})()
    unguarded.levels, unguarded.latents = flow.levels, flow.latents
    torch.manual_seed(1)
    x = torch.rand(16, 3, 8, 8) - 0.5
    with torch.no_grad(), TF32():
        latents, _ = inverse(unguarded, x)
        assert float((forward(unguarded, latents) - x).abs().max()) > 1e-3


class Seen(FeatureExtractor):
    """Tells in which precision it computes."""

    name = "seen"

    def forward(self, samples):
        self.told = torch.backends.cudnn.conv.fp32_precision, torch.is_autocast_enabled("cpu")
        return samples.values


def test_features_and_samples_are_computed_in_float32():
    extractor = Seen()
    with torch.autocast("cpu", torch.bfloat16):
        extractor.predict_step(SampleBlock(0, Samples(torch.zeros(2, 3))), 0)
    assert extractor.told == ("ieee", False)


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
def test_what_somebody_has_asked_for_elsewhere_stays(products):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(products)
    try:
        told = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
        for inside in (full_products(), true_float32(torch.device("cpu"))):
            with suppress(KeyError), inside:
                assert torch.backends.cudnn.conv.fp32_precision == "ieee"
                raise KeyError
        now = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
        assert now == told
        assert torch.get_float32_matmul_precision() == products
    finally:
        torch.set_float32_matmul_precision(before)


def test_weights_have_the_kinds_that_they_were_built_with_after_any_training():
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("exact", torch.full((2,), 1 / 3, dtype=torch.float64))
    with keeping_kinds(module):
        module.double()
        module.weight.data.fill_(1 / 3)
    assert (module.weight.dtype, module.exact.dtype) == (torch.float32, torch.float64)
    assert module.num_batches_tracked.dtype == torch.int64
    assert module.weight[0] == torch.tensor(1 / 3)
    assert module.exact[0] == 1 / 3
