"""Trains a small class-conditional diffusion model with plain diffusers and torch.

It knows nothing of mad_lightning. Pictures lie in a folder a class, whose name begins with the
number of the class.

    python diffusers_train.py --data pictures --out model --seed 0 --classes 10 --steps 600
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from PIL import Image


def read(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, C, H, W) in [-1, 1] and classes (N,)."""
    files = sorted(data.rglob("*.png"))
    pixels = np.stack([np.atleast_3d(np.array(Image.open(file))) for file in files])
    labels = [int(file.parent.name[:4]) for file in files]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1, torch.tensor(labels)


def main() -> None:
    """Writes the averaged network and its schedule."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=6e-3)
    given = parser.parse_args()
    torch.set_num_threads(1)  # as fast as two at this size, and the same bits everywhere
    torch.manual_seed(given.seed)
    images, labels = read(given.data)
    network = UNet2DModel(
        sample_size=images.shape[-1],
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        layers_per_block=1,
        block_out_channels=given.widths,
        down_block_types=["DownBlock2D"] * len(given.widths),
        up_block_types=["UpBlock2D"] * len(given.widths),
        add_attention=False,
        norm_num_groups=8,
        num_class_embeds=given.classes,
    )
    schedule = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    optimizer = torch.optim.AdamW(network.parameters(), lr=given.lr)
    rates = get_cosine_schedule_with_warmup(optimizer, given.steps // 10, given.steps)
    average = EMAModel(network.parameters(), decay=0.995)
    for step in range(given.steps):
        rows = torch.randint(len(images), (given.batch,))
        noise, times = torch.randn_like(images[rows]), torch.randint(1000, (given.batch,))
        noisy = schedule.add_noise(images[rows], noise, times)
        velocity = schedule.get_velocity(images[rows], noise, times)
        loss = (network(noisy, times, labels[rows]).sample - velocity).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rates.step()
        average.step(network.parameters())
        if step % 100 == 99:
            print(f"step {step + 1} of {given.steps}, loss {loss.item():.4f}")
    average.copy_to(network.parameters())
    network.save_pretrained(given.out / "unet")
    schedule.save_pretrained(given.out / "scheduler")


if __name__ == "__main__":
    main()
