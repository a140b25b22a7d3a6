"""Kills lineages with SIGKILL in the middle of each phase and resumes them; prints what came out.

A program of its own: it imports everything once and forks for every lineage, so that a dozen
lineages cost seconds. Not a test module; see ``test_resume.py``.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from mad_lightning.callbacks.base import LineageCallback
from mad_lightning.commands.train import build
from mad_lightning.lineage import Ledger, LineageDirectory


class Killer(LineageCallback):
    """Dies at one place of generation 2."""

    place: tuple[str, int] | None = None

    def on_generation_progress(self, t, phase, done, total):
        if t == 2 and self.place == (phase, done):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_samples_ready(self, t, directory, samples):
        if t == 2 and self.place == ("commit", 0):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_generation_end(self, record, directory):
        if record.generation == 2 and self.place == ("after", 0):
            os.kill(os.getpid(), signal.SIGKILL)


def lineage(arguments, place=None):
    """Runs a lineage in a fork; tells how it ended."""
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        Killer.place = place
        if place in (("record", 0), ("torn", 0)):
            append = Ledger.append

            def die(self, record):
                if record.generation == 2:
                    if place[0] == "torn":
                        with self.path.open("ab") as file:
                            file.write(record.to_json().encode()[:40])
                    os.kill(os.getpid(), signal.SIGKILL)
                append(self, record)

            Ledger.append = die
        try:
            build([*arguments, "--callbacks", '[{"class_path": "crash.Killer"}]']).fit()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(root, name):
    """What must not depend on kills."""
    records = LineageDirectory(Path(root) / name).records()
    return [
        [r.generation, r.metrics, r.digests, r.images, r.n_real, r.n_synthetic] for r in records
    ]


def main():
    sys.modules["crash"] = sys.modules["__main__"]
    # Imported once, here, for all forks.
    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel  # noqa: F401

    root, places, arguments = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
    arguments = [*arguments, "--lineage.root", root]
    calm = lineage([*arguments, "--lineage.name", "calm"])
    results = {"calm": {"codes": [calm], "outcome": outcome(root, "calm")}}
    for phase, done in places:
        name = f"{phase}-{done}"
        command = [*arguments, "--lineage.name", name]
        codes = [lineage(command, (phase, done)), lineage(command)]
        results[name] = {"codes": codes, "outcome": outcome(root, name)}
        leftovers = [str(p) for p in Path(root, name).rglob("*.tmp")]
        results[name]["leftovers"] = leftovers
    print(json.dumps(results))


if __name__ == "__main__":
    main()
