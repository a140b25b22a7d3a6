"""What the five Gaussian studies cost as shipped: wall and CPU seconds, and the errors they reach.

    python benchmarks/studies.py [THREADS]

Bar: all five under 40 s on 2 otherwise idle cores, at a Monte-Carlo error of W2² of 1 % (2 % for
E13). The CPU seconds over the threads is what a perfect division of the work would take; the bits
of the results do not depend on the threads.
"""

from __future__ import annotations

import sys
import time

import torch
import yaml
from theory import FIVE, STUDIES

from mad_lightning.theory.study import LoopGrid, Study, relative_error


def main() -> None:
    """Prints a line a study, and the sum."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads()
    walls, cpus = [], []
    for name in FIVE:
        config = yaml.safe_load((STUDIES / f"{name}.yaml").read_text()) | {"threads": threads}
        del config["axes"]
        config |= {key: LoopGrid(**config[key]) for key in ("grid", "also") if key in config}
        wall, cpu = time.perf_counter(), time.process_time()
        rows = Study(**config).run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        error = max(map(relative_error, rows))
        print(
            f"{name:>5} {walls[-1]:6.1f} s wall {cpus[-1]:6.1f} s CPU  error {error:.2%}",
            flush=True,
        )
    even = sum(cpus) / threads
    print(
        f"  all {sum(walls):6.1f} s wall {sum(cpus):6.1f} s CPU, over {threads} threads {even:.1f}"
    )


if __name__ == "__main__":
    main()
