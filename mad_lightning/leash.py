"""Starts a program, and ends it with all that it has started when whoever asked for it is gone.

Run as a program of its own, ``python leash.py COMMAND ...``. Whoever asks holds its standard input
open; however that one ends, by an error, Ctrl-C or SIGKILL, the system closes it. So no training
goes on behind a lineage that was killed, whose next start would run it a second time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from threading import Thread

_GRACE = 5.0
"""Seconds between the request to end and the end."""


def main() -> None:
    """Ends as the program does; by a signal, with 128 and its number, as shells tell it."""
    try:
        program = subprocess.Popen(
            sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True
        )  # a session of its own: its processes are told from all others
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
    Thread(target=_end_when_alone, args=[program], daemon=True).start()
    code = program.wait()
    _signal(program.pid, signal.SIGKILL)  # what it has started and left
    os._exit(code if code >= 0 else 128 - code)


def _end_when_alone(program: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    _signal(program.pid, signal.SIGTERM)
    time.sleep(_GRACE)  # the program ends first, if it will, and this one with it
    _signal(program.pid, signal.SIGKILL)


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    main()
