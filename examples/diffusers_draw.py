"""Draws from what diffusers_train.py has trained, one picture a seed.

It knows nothing of mad_lightning. Each picture takes all its noise from a random generator of its
own, so a seed gives the same picture whichever others are drawn with it.

    python diffusers_draw.py --model model --seeds 0,1,2 --labels 7,7,3 --samples pictures
"""

import argparse
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DModel
from PIL import Image


@torch.no_grad()
def main() -> None:
    """Writes 000000.png, 000001.png, ... in the order of the seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--seeds", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = UNet2DModel.from_pretrained(given.model / "unet", low_cpu_mem_usage=False).eval()
    solver = DPMSolverMultistepScheduler.from_pretrained(
        given.model / "scheduler",
        algorithm_type="sde-dpmsolver++",
        use_lu_lambdas=True,  # even in the log of signal to noise
        lambda_min_clipped=-5.1,  # few steps cannot start in purer noise
        thresholding=True,
        sample_max_value=1.0,
    )
    solver.set_timesteps(given.steps)
    labels = torch.tensor([int(label) for label in given.labels.split(",")])
    noise = [torch.Generator().manual_seed(int(seed)) for seed in given.seeds.split(",")]
    shape = (network.config.in_channels, *[network.config.sample_size] * 2)
    images = torch.stack([torch.randn(shape, generator=own) for own in noise])
    for time in solver.timesteps:
        velocity = network(images, time, labels).sample
        images = solver.step(velocity, time, images, generator=noise).prev_sample
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for place, image in enumerate(pixels.squeeze(3).numpy()):
        Image.fromarray(image).save(given.samples / f"{place:06d}.png")


if __name__ == "__main__":
    main()
