"""What every hook call cost: `trace.jsonl`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tkernel.types.plan import Choice

TRACE = "trace.jsonl"
"""Its name in an output folder."""


@dataclass
class Call:
    """One hook call. Memory is the peak of the process so far, in bytes; `gpu_peak` is None without CUDA."""

    hook: str
    provider: str
    distribution: str
    version: str
    subject: str | None = None
    extensions: tuple[str, ...] = ()
    started: float = 0.0
    """Seconds since the epoch."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of this process with all its threads, and of its children that have ended."""
    peak_memory: int = 0
    gpu_peak: int | None = None
    ok: bool = True
    error: str | None = None


class Trace:
    """Collects calls; `write_to` names the file, to which every call is appended as it ends."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.file: Path | None = None

    def write_to(self, file: Path) -> None:
        """Append to `file` from now on, beginning with what was collected before it was known."""
        self.file = file
        self._append(self.calls)

    @contextmanager
    def measure(self, choice: Choice, extensions: tuple[str, ...] = ()) -> Iterator[Call]:
        """Measure the block as one call of `choice`; an exception is recorded and goes on."""
        call = Call(
            hook=choice.hook,
            provider=f"{choice.kind}:{choice.name}",
            distribution=choice.distribution,
            version=choice.version,
            subject=choice.subject,
            extensions=extensions,
            started=time.time(),
        )
        clock, cpu = time.perf_counter(), cpu_seconds()
        try:
            yield call
        except BaseException as error:
            call.ok = False
            call.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            call.seconds = time.perf_counter() - clock
            call.cpu_seconds = cpu_seconds() - cpu
            call.peak_memory = peak_memory()
            call.gpu_peak = gpu_peak()
            self.calls.append(call)
            # A disk that is full has most likely ended the call, whose own error says more.
            with nullcontext() if call.ok else suppress(OSError):
                self._append([call])

    def _append(self, calls: list[Call]) -> None:
        if self.file is not None and calls:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.writelines(json.dumps(asdict(call), ensure_ascii=False) + "\n" for call in calls)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_peak() -> int | None:
    """Most bytes that torch allocated on the current GPU so far; never imports torch nor starts CUDA."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    return int(cuda.max_memory_allocated())
