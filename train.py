"""The door: ``python train.py --config configs/digits_diffusion_full_synth.yaml``, or mad train."""

import sys

from mad_lightning.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
