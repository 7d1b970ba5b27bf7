"""`tk run FILE --plugin tests/bench/timing.py`: an extension that times a run and writes its batches down.

An extension, so that all else is the command's: what it imports, and when.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tkernel import hookimpl


class Timing:
    """Writes `found.json` and `batches.json` beside the output folder."""

    name = "timing"

    @hookimpl(wrapper=True)
    def train_stage(self, request: Any) -> Iterator[None]:
        from transformers import TrainerCallback

        clock, batches = Clock(), []

        class Timed(TrainerCallback):
            def on_train_begin(
                self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
            ) -> None:
                model.register_forward_pre_hook(
                    lambda _, args, inputs: batches.append(
                        {n: inputs[n].tolist() for n in ("input_ids", "attention_mask", "labels")}
                    ),
                    with_kwargs=True,
                )

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clock.begin()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.end()

        request.slots.put("callbacks", Timed(), by=self.name)
        result = yield
        folder = result.output_dir.parent
        state = json.loads((result.output_dir / "trainer_state.json").read_text())
        losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
        (folder / "batches.json").write_text(json.dumps(batches))
        clock.report(folder, losses, sum(sum(map(sum, batch["attention_mask"])) for batch in batches))
        return result


class Clock:
    """CPU time of steps, on a GPU wall time; and the peak of memory."""

    def __init__(self) -> None:
        import torch

        self.on_gpu = torch.cuda.is_available()
        self.steps: list[float] = []
        self.start = 0.0

    def begin(self) -> None:
        """A step begins."""
        self.start = self._now()
        if not self.steps and not hasattr(self, "first"):
            self.first = time.process_time()

    def end(self) -> None:
        """It is done."""
        self.steps.append(self._now() - self.start)

    def report(self, folder: Path, losses: list[float], tokens: int) -> None:
        """Write `found.json`."""
        import resource

        import torch

        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if self.on_gpu:
            peak = torch.cuda.max_memory_allocated()
        found = {"losses": losses, "tokens": tokens, "seconds": sum(self.steps), "peak": peak}
        found |= {"first": self.first, "rate": multiplied(self.on_gpu)}
        (folder / "found.json").write_text(json.dumps(found))

    def _now(self) -> float:
        import torch

        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def multiplied(on_gpu: bool) -> dict[str, float]:
    """Operations a second of the products of this model's shapes, 512 tokens at once."""
    import torch

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = torch.randn(512, 576, dtype=dtype), torch.randn(576, 1536, dtype=dtype)
        if on_gpu:
            x, w = x.cuda(), w.cuda()
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter() if on_gpu else time.process_time()
            for _ in range(20):
                x @ w
            if on_gpu:
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() if on_gpu else time.process_time()) - start)
        rates["bf16" if dtype == torch.bfloat16 else "fp32"] = 20 * 2 * 512 * 576 * 1536 / best
    return rates


EXTENSION = Timing()
