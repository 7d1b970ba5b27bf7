"""Memory and time of hooks, as a table and as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tkernel.trace import peak_memory

FILE = "resources.json"


@dataclass(frozen=True)
class Cost:
    """One hook call: seconds, and bytes. The `peak` is that of the process up to the end of the call."""

    hook: str
    seconds: float
    memory: int | None
    """Resident size after the call; None where the system does not say."""
    peak: int
    gpu_memory: int | None = None
    """Allocated on the GPU after the call; None without CUDA."""
    gpu_peak: int | None = None
    """Most that was allocated on the GPU during the call."""


class ResourceReport:
    """Collects the costs of a run."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    @contextmanager
    def measure(self, hook: str) -> Iterator[None]:
        """Measure the block as one call of `hook`; a call that fails is not reported."""
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()
        started = perf_counter()
        yield
        cuda = _cuda()
        self.costs.append(
            Cost(
                hook=hook,
                seconds=perf_counter() - started,
                memory=resident_memory(),
                peak=peak_memory(),
                gpu_memory=int(cuda.memory_allocated()) if cuda is not None else None,
                gpu_peak=int(cuda.max_memory_allocated()) if cuda is not None else None,
            )
        )

    def finish(self, rates: Mapping[str, float], output_dir: Path | None) -> None:
        """Print the table and write the file."""
        print("\n" + self.table(rates), flush=True)
        if output_dir is not None:
            content = {"hooks": [asdict(cost) for cost in self.costs], "throughput": dict(rates)}
            (output_dir / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def table(self, rates: Mapping[str, float]) -> str:
        """Hooks with their costs, then the rates of training."""
        lines = [f"{'hook':<20} {'seconds':>9} {'memory':>10} {'peak so far':>12} {'GPU peak':>10}"]
        lines += [
            f"{cost.hook:<20} {cost.seconds:>9.1f} {_mib(cost.memory):>10} {_mib(cost.peak):>12} "
            f"{_mib(cost.gpu_peak):>10}"
            for cost in self.costs
        ]
        named = "  ".join(f"{value:,.1f} {name.replace('_per_', '/')}" for name, value in rates.items())
        return "\n".join([*lines, *([f"in training steps: {named}"] if named else [])])


def resident_memory() -> int | None:
    """Bytes of this process in memory now; None where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return None


def _cuda() -> Any:
    """`torch.cuda` once something has started it, else None: measuring starts no GPU context."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _mib(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.0f} MiB"
