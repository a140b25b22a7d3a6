"""The door: ``python train.py --config configs/digits_diffusion_full_synth.yaml``."""

from mad_lightning.cli import main

if __name__ == "__main__":
    main()
