"""What StyleGAN2 costs on a GPU: seconds for 1,000 images, kernels, waits and memory, in one table.

    python benchmarks/gpu.py                    # FFHQ's networks at 128 px; minutes
    python benchmarks/gpu.py --device cpu       # small networks, to try the program itself

Pictures are random bytes, resident on the device. Without a CUDA device it says so and ends; nobody
has run it on one yet. Rows: float32 without and with TF32, bfloat16, float16; as it is and
compiled; batches of 32, and of 4 as each of eight GPUs has. Then how many values of the noise
differ from a CPU's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import lightning as L
import torch

from mad_lightning.generators import StyleGAN2
from mad_lightning.samples import Samples, SampleSpec
from mad_lightning.seeds import normal, sample_seeds

ROWS = (("32-true", "ieee"), ("32-true", "tf32"), ("bf16-mixed", "tf32"), ("16-mixed", "tf32"))


class Same:
    """The same batch again and again."""

    def __init__(self, samples: Samples, steps: int) -> None:
        self.samples, self.steps = samples, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Samples]:
        for _ in range(self.steps):
            yield self.samples


class Watch(L.Callback):
    """Clocks steps after a warm-up, and looks into the last 16, which have all kinds of steps."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.last = warmup, warmup + steps
        self.seconds, self.kernels, self.waits = 0.0, 0.0, 0.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Samples, batch_idx: int
    ) -> None:
        """Begins."""
        if batch_idx == self.warmup:
            wait(pl_module.device)
            self.seconds = -time.perf_counter()
        elif batch_idx == self.last:
            wait(pl_module.device)
            self.seconds += time.perf_counter()
            self.profile = torch.profiler.profile()
            self.profile.start()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Counts."""
        wait(pl_module.device)
        self.profile.stop()
        calls = {event.key: event.count for event in self.profile.key_averages()}
        is_gpu = pl_module.device.type == "cuda"
        launches = [n for key, n in calls.items() if key.startswith(("cudaLaunch", "cuLaunch"))]
        waits = [n for key, n in calls.items() if "StreamSynchronize" in key]
        self.kernels = sum(launches) / 16 if is_gpu else float("nan")
        self.waits = sum(waits) / 16 if is_gpu else float("nan")


def wait(device: torch.device) -> None:
    """Until the device has caught up."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(
    device: str, precision: str, products: str, compiled: bool, batch: int, steps: int
) -> Watch:
    """Trains for some steps."""
    small = {"dim": 16, "mapping_layers": 2, "channel_base": 64, "channel_max": 8}
    sizes, side = (small, 16) if device == "cpu" else ({"channel_base": 16384}, 128)
    torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = products
    torch.manual_seed(0)
    spec = SampleSpec((3, side, side))
    generator = StyleGAN2(**sizes, r1=0.1024, compile=compiled).build(spec)
    pictures = torch.randint(256, (batch, *spec.shape), dtype=torch.uint8, device=device)
    watch = Watch(16 if device == "cpu" else 64, steps)
    trainer = L.Trainer(
        accelerator=device, devices=1, precision=precision, max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        benchmark=True, callbacks=[watch],
    )  # fmt: skip
    trainer.fit(generator, Same(Samples(pictures), watch.last + 16))
    return watch


def noise(device: str) -> str:
    """Values of the noise that are not a CPU's."""
    seeds = sample_seeds(0, 1024, "noise")
    here, there = normal(seeds, 2**14), normal(seeds.to(device), 2**14).cpu()
    n, most = int((here != there).sum()), float((here - there).abs().max())
    return f"noise: {n:,} of {here.numel():,} values differ from a CPU's, by {most:.1e} at most"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=int, help="a multiple of 16")
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("there is no CUDA device; --device cpu tries the program with small networks")
        return
    print(torch.cuda.get_device_name() if on_gpu else "cpu, small networks", torch.__version__)
    print(f"{'':<28}{'batch':>6}{'s/kimg':>9}{'kernels':>9}{'waits':>7}{'MiB':>8}")
    steps = args.steps or (256 if on_gpu else 16)
    for precision, products in ROWS if on_gpu else ROWS[:1]:
        for compiled in (False, True) if on_gpu else (False,):
            for batch in (32, 4) if on_gpu else (4,):
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
                seen = row(args.device, precision, products, compiled, batch, steps)
                peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else float("nan")
                name = f"{precision} {products}{', compiled' * compiled}"
                cost = seen.seconds / (steps * batch) * 1000
                counts = f"{cost:>9.2f}{seen.kernels:>9.0f}{seen.waits:>7.1f}{peak:>8.0f}"
                print(f"{name:<28}{batch:>6}{counts}", flush=True)
    print(noise(args.device))


if __name__ == "__main__":
    main()
