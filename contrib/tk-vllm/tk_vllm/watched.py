"""Runs a module as `python -m` does, and ends with the process that started it, however that one ends.

Standard library alone: the server's Python reads this as text, in an environment without tkernel.
"""

import os
import runpy
import signal
import sys
import threading
import time

SECONDS = 10.0
"""For a server to end by itself."""


def end_with_parent() -> None:
    """Wait for the end of standard input, a pipe whose other end closes with the process that holds it."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
