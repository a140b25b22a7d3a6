"""What it costs until something happens, beside the import of what it cannot do without.

    python benchmarks/startup.py

CPU seconds of new processes, the least of five runs, and the ratio to the peer in the same table.
Bars: help below 0.2 s; the pure metrics at torch's own import + 0.3 s; the first step of a small
lineage below 1.3 times the import of torch, lightning and the family's own libraries.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINEAGE = (
    "from mad_lightning.commands.train import build; import sys; "
    "build(['--lineage.root', sys.argv[1], '--lineage.generations', '1', '--policy', "
    "'FullySynthetic', '--policy.n_initial', '200', '--data.source', 'Digits', "
    "'--data.n_reference', '100', '--data.cache', sys.argv[1] + '/cache', '--generator', "
    "'Gaussian', '--evaluator.extractor', 'Identity', '--evaluator.metrics', '[Frechet]', "
    "'--callbacks', '[]', '--trainer.accelerator', 'cpu']).fit()"
)
ROWS = (
    ("import mad_lightning", ("-c", "import mad_lightning"), "python"),
    ("mad --help", ("-m", "mad_lightning", "--help"), "python"),
    ("import mad_lightning.metrics.functional", ("-c", "import mad_lightning.metrics.functional"),
     "torch"),
    ("a lineage of one Gaussian", ("-c", LINEAGE), "torch and lightning"),
)  # fmt: skip
PEERS = {
    "python": ("-c", "pass"),
    "torch": ("-c", "import torch"),
    "torch and lightning": ("-c", "import torch, lightning, torchmetrics"),
}


def cpu_seconds(command: tuple[str, ...]) -> float:
    """What new processes spend on a command, the least of five."""
    spent = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as directory:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *command, directory],
                cwd=ROOT,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"},
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def main() -> None:
    """Prints the table."""
    peers = {name: cpu_seconds(command) for name, command in PEERS.items()}
    for what, command, peer in ROWS:
        own = cpu_seconds(command)
        ratio = f"{own / peers[peer]:.2f} times {peer} ({peers[peer]:.2f} s)"
        print(f"{what:42s} {own:6.2f} s   {own - peers[peer]:+.2f} s   {ratio}")


if __name__ == "__main__":
    main()
