"""Installed modules are read while other threads print tracebacks."""

from __future__ import annotations

import subprocess
import sys

BESIDE_ANOTHER_THREAD = """
import ast, gc, sys, threading, typing
from pathlib import Path
from tkernel_plugins.keys.syntax import statements_of

def other():
    while True:
        ast.parse("x = [a, b, f(c)]")

def deep(frames):
    return statements_of(Path(typing.__file__)) if frames == 0 else deep(frames - 1)

threading.Thread(target=other, daemon=True).start()
sys.setswitchinterval(1e-6)
gc.set_threshold(50)
gc.callbacks.append(lambda *_: None)  # Python code, in which the other thread gets its turn
expected = [ast.dump(node) for node in statements_of(Path(typing.__file__))]
for _ in range(10):
    assert [ast.dump(node) for node in deep(30)] == expected
assert gc.isenabled()
gc.disable()
deep(1)
assert not gc.isenabled()
"""


def test_a_module_is_read_whole_while_another_thread_parses():
    done = subprocess.run([sys.executable, "-c", BESIDE_ANOTHER_THREAD], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
