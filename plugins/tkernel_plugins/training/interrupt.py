"""Ctrl-C and SIGTERM that lose no work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
"""The signals that stop a run, as the screen calls them."""


class EvaluationStopped(Exception):
    """Raised within an evaluation that is not finished, because the run has to stop."""


class Stopped(Exception):
    """The run was stopped by a signal after `step`, of which there is a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class Interrupt(TrainerCallback):
    """The first signal ends the run after the step that is running, with a checkpoint; the second at once."""

    def __init__(self) -> None:
        self.asked: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over while training; does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._ask) for number in NAMES}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked is not None:
            leave(number)
        self.asked = number
        name = NAMES[signal.Signals(number)]
        print(f"\n{name}: saving a checkpoint after this step; a second one stops at once", flush=True)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """End an evaluation, which is made again when the run goes on; several processes finish it."""
        if self.asked is not None and args.world_size == 1:
            raise EvaluationStopped


def leave(number: int | None) -> NoReturn:
    """End the process as the signal would: exit code 130 for Ctrl-C, 143 for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signal.SIGTERM)


def leave_signals_to_the_parent(worker: int, then: Callable[[int], None] | None = None) -> None:
    """For the worker of a data loader: a signal to all processes must not end it before the parent's step is
    done. Its parent's second SIGTERM ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    if then is not None:
        then(worker)
