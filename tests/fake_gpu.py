"""A GPU that is not there: its tensors are computed on the CPU, refuse to be mixed, are counted.

What a test with it shows: that nothing mixes devices, that nothing waits for the device in a step,
and how many kernels a step launches. What it cannot show: a GPU's rounding, its speed, its memory.

A *kernel* is a call that computes; views and empty tensors are none, and what works on a list of
tensors (``_foreach``, ``_fused``) is one. A *wait* is whatever makes the program wait until the
device has caught up: a number that is read, a shape that depends on values, a copy between the two
memories, unless it goes up from pinned memory and nobody waits for it.
"""

import traceback
from collections import Counter
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

from mad_lightning.generators import base

NAME = "fake_gpu"


def words(text):
    return frozenset(text.split())


VIEWS = words("""
    view _unsafe_view expand t transpose permute slice select unsqueeze squeeze split
    split_with_sizes detach alias as_strided unbind diagonal unfold lift_fresh _reshape_alias
    view_as_real chunk is_same_size narrow tensor_split detach_ mT _conj resize_
""")
NO_KERNELS = VIEWS | words("""
    empty empty_like empty_strided new_empty new_empty_strided set_ _local_scalar_dense is_pinned
    _has_compatible_shallow_copy_type sym_size sym_stride size stride
    _record_function_enter_new _record_function_exit
""")
READS = words("""
    _local_scalar_dense nonzero unique_dim _unique2 unique_consecutive masked_select equal
    is_nonzero bincount
""")
COPIES = words("copy_ _to_copy _copy_from")
INDEXING = words("index index_put index_put_ _index_put_impl_ _unsafe_index_put")


class Log:
    """Kernels by name, waits by name and place."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.kernels, self.waits = Counter(), Counter()

    def wait(self, what):
        self.waits[what, place()] += 1


LOG = Log()
PINNED = {}  # tensors in memory that says it is pinned, by address


def place():
    """The line of ours that asked; else of whoever did."""
    lines = [f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_stack())]
    ours = [line for line in lines if "/mad_lightning/" in line and "/tests/" not in line]
    others = [line for line in lines if "/site-packages/" in line and "/torch/utils/" not in line]
    return (ours or others or lines)[0].rpartition("mad_lightning/" if ours else "packages/")[2]


class Module(_DummyBackendModule):
    """What torch asks of a device's own module."""

    def set_device(self, device):
        pass

    def synchronize(self, device=None):
        LOG.wait("synchronize")

    def empty_cache(self):
        pass

    def manual_seed(self, seed):
        pass

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]

    def is_autocast_enabled(self):
        return False


class OnDevice(torch.Tensor):
    """A tensor that says it lives on the device."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self, *args, **kwargs):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def tolist(self):
        LOG.wait("tolist")
        return self.inner.tolist()

    def new_tensor(self, data, dtype=None, device=None, requires_grad=False):
        where = torch.device(NAME, 0) if device is None else device
        return torch.tensor(data, dtype=dtype or self.dtype, device=where)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


def is_ours(device):
    return device is not None and torch.device(device).type == NAME


def wrapped(x):
    is_plain = isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)
    return OnDevice(x) if is_plain else x


def check_places(name, args, here):
    """Refuses tensors of both memories in one call, as a GPU does."""
    if name in COPIES:
        return
    wide = [tuple(x.shape) for x in here if x.dim() > 0]
    if wide and name in INDEXING and isinstance(args[0], OnDevice):
        LOG.wait("index of the other memory")
        values = args[2] if len(args) > 2 else None
        if isinstance(values, OnDevice) or values is None or values.dim() == 0:
            return
    if wide:
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {name}, {NAME}:0 and cpu {wide}"
        )


def wait_of(name, args, kwargs, up, down):
    """What a call makes the program wait for; empty if for nothing."""
    if down:
        return "copy down"
    if up:
        source = args[1] if name == "copy_" else args[0]
        hurried = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        return "" if hurried and source.untyped_storage().data_ptr() in PINNED else "copy up"
    if name in READS:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None and len(args) < 3:
        return name
    if name in INDEXING:
        masks = (torch.bool, torch.uint8)
        if any(getattr(i, "dtype", None) in masks for i in tree_flatten(args[1])[0]):
            return "mask"
    return ""


def dispatched(function, args, kwargs):
    """One call of an operator, computed on the CPU."""
    name = function.overloadpacket.__name__
    flat, _ = tree_flatten((args, kwargs))
    there = [x for x in flat if isinstance(x, OnDevice)]
    here = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, OnDevice)]
    target = kwargs.get("device")
    if not there and not is_ours(target):
        return function(*args, **kwargs)
    if any(isinstance(x, torch.Generator) for x in flat):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator: {name}")
    if there:
        check_places(name, args, here)
    up = name == "_to_copy" and not there
    down = name == "_to_copy" and there and target is not None and not is_ours(target)
    if name == "copy_":
        up = not isinstance(args[1], OnDevice) and args[1].dim() > 0
        down = not isinstance(args[0], OnDevice)
    if what := wait_of(name, args, kwargs, up, down):
        LOG.wait(what)
    if name not in NO_KERNELS and not up and not down:
        LOG.kernels[name] += 1
    asked = {
        k: torch.device("cpu") if k == "device" and is_ours(v) else v for k, v in kwargs.items()
    }
    inner_args, inner_kwargs = tree_map(
        lambda x: x.inner if isinstance(x, OnDevice) else x, (args, asked)
    )
    out = function(*inner_args, **inner_kwargs)
    if name in ("_local_scalar_dense", "equal", "is_nonzero") or (down and name != "copy_"):
        return out
    if name == "copy_":
        return args[0]
    made = tree_map(wrapped, out)
    return return_and_correct_aliasing(function, args, kwargs, made) if there else made


class Factories(TorchDispatchMode):
    """What makes tensors on the device out of nothing, or out of the other memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class FakeGPU(Accelerator):
    """Lightning's view of the device."""

    def setup_device(self, device):
        pass

    def teardown(self):
        pass

    @staticmethod
    def parse_devices(devices):
        return 1

    @staticmethod
    def get_parallel_devices(devices):
        return [torch.device(NAME, 0)]

    @staticmethod
    def auto_device_count():
        return 1

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def get_device():
        return NAME

    def get_device_stats(self, device):
        return {}

    @staticmethod
    def name():
        return NAME


def trainer_arguments():
    """For a Lightning Trainer that trains there."""
    strategy = SingleDeviceStrategy(torch.device(NAME, 0))
    return {"accelerator": FakeGPU(), "devices": 1, "strategy": strategy}


class Steps(L.Callback):
    """Kernels and waits of each training step."""

    def __init__(self):
        self.kernels, self.waits = [], []

    def on_train_batch_start(self, *args):
        LOG.clear()

    def on_train_batch_end(self, *args):
        self.kernels.append(sum(LOG.kernels.values()))
        self.waits.append(dict(LOG.waits))


def _made_there(make):
    """``torch.tensor`` makes its tensor before anybody can see where: here it is moved."""

    def made(data, *args, device=None, **kwargs):
        if not is_ours(device):
            return make(data, *args, **kwargs, **({} if device is None else {"device": device}))
        return make(data, *args, **kwargs).to(torch.device(NAME, 0))

    return made


def pinned(tensor):
    kept = tensor.clone()
    PINNED[kept.untyped_storage().data_ptr()] = kept  # held, or its address would be another's
    return kept


_REGISTERED = []


def register():
    """Tells torch of the device, once."""
    if not _REGISTERED:
        _setup_privateuseone_for_python_backend(NAME, backend_module=Module())
        _REGISTERED.append(NAME)


@contextmanager
def plugged_in(monkeypatch):
    """Inside, there is such a device."""
    register()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", _made_there(torch.tensor))
        patch.setattr(torch, "as_tensor", _made_there(torch.as_tensor))
        foreach = [*optimizers._foreach_supported_types, OnDevice]
        patch.setattr(optimizers, "_foreach_supported_types", foreach)
        patch.setattr(torch.utils._foreach_utils, "_foreach_supported_types", foreach)
        patch.setattr(torch.Tensor, "pin_memory", pinned)
        patch.setattr(base, "FUSED_ON", (*base.FUSED_ON, NAME))
        LOG.clear()
        with Factories():
            yield torch.device(NAME, 0)
