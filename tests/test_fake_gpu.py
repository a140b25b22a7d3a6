"""On a device of its own; see ``on_fake_gpu.py``, whose tests run in a process of theirs.

torch counts its devices at the first backward pass of a process and never again.
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_all_that_is_said_of_a_device_that_nobody_has():
    command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--durations=0"]
    done = subprocess.run(
        [sys.executable, *command, HERE / "on_fake_gpu.py"],
        cwd=HERE.parent, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
