"""The trace records every hook call, also one that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tkernel.trace import Trace
from tkernel.types.plan import Choice

CHOICE = Choice(
    "adapt", "adapter", "lora", "tkernel", "1.0.0", "m:A", "default", "default of adapters", "first"
)


def test_calls_before_and_after_the_file_is_known_are_all_written(tmp_path: Path) -> None:
    trace = Trace()
    with trace.measure(CHOICE):
        pass
    trace.write_to(tmp_path / "out" / "trace.jsonl")
    with trace.measure(CHOICE, ("watch",)):
        pass
    rows = [json.loads(line) for line in (tmp_path / "out" / "trace.jsonl").read_text().splitlines()]
    assert [row["extensions"] for row in rows] == [[], ["watch"]]
    assert {(row["hook"], row["provider"], row["distribution"], row["ok"]) for row in rows} == {
        ("adapt", "adapter:lora", "tkernel", True)
    }


def test_a_failing_call_is_recorded_and_its_error_goes_on(tmp_path: Path) -> None:
    trace = Trace()
    trace.write_to(tmp_path / "trace.jsonl")
    with pytest.raises(ValueError, match="boom"), trace.measure(CHOICE):
        raise ValueError("boom")
    row = json.loads((tmp_path / "trace.jsonl").read_text())
    assert (row["ok"], row["error"]) == (False, "ValueError: boom")


def test_cost_is_measured_in_seconds_and_bytes() -> None:
    trace = Trace()
    with trace.measure(CHOICE) as call:
        sum(range(2_000_000))
        ballast = bytearray(2**20)
    assert call.seconds > 0
    assert call.cpu_seconds > 0
    assert call.peak_memory > len(ballast)
    assert call.gpu_peak is None or "torch" in sys.modules
