"""A stand-in for training a lineage: counts its tries, says a word, and leaves as it is told."""

import os
import signal
import sys
import time
import types
from pathlib import Path


def lineage(arguments):
    told = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    tries = Path(told["lineage.root"], told["lineage.name"] + ".tries")
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    print("error: because", flush=True)
    code = told.get("code", "0")
    if code == "die" and len(tries.read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if code == "sleep":
        time.sleep(60)
    sys.exit(int(code) if code.isdecimal() else 0)


def without_torch():
    """Which takes seconds to import, and of which only the threads are asked."""
    sys.modules.setdefault(
        "torch",
        types.SimpleNamespace(get_num_threads=lambda: 1, set_num_threads=lambda n: None),
    )


if __name__ == "__main__":
    without_torch()
    from mad_lightning.sweeps.worker import serve

    if sys.argv[1] == "worker":
        serve(lineage, sys.stdin, os.fdopen(os.dup(1), "w"))
    else:
        lineage(sys.argv[2:])
else:
    if "pytest" not in sys.modules:  # a job of submitit's
        without_torch()
