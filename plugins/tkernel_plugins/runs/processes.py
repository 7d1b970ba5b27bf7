"""The processes of one distributed run: each makes the plan, and they compare before anything is loaded.

torchrun, accelerate and the like start the processes and say who each is (`RANK`, `WORLD_SIZE`,
`MASTER_ADDR`, `MASTER_PORT`). What is compared travels through torch's own store, the one in which the
processes meet for training; no shared folder is needed.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from tkernel import lock
from tkernel.errors import ProcessesDisagree, TkError

TIME_LIMIT = 300
"""Seconds in which every process must have told its plan."""

Told = Mapping[str, str]
"""`settings learning_rate` -> its value; the same for plan, versions, hashes and seeds."""

_calls = itertools.count()
_stores: list[Any] = []  # the first process serves the store, which must live until training has begun


def world() -> tuple[int, int]:
    """Number of this process and of all processes, (0, 1) for a run of one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def agree(now: Callable[[], lock.Lock]) -> None:
    """Wait until all processes have told what they are about to run; does nothing in a run of one.

    Raises:
        ProcessesDisagree: in each process that plans something else than the first, and in the first.
        TkError: a process is not there in time, or the processes cannot find each other.
    """
    rank, size = world()
    if size <= 1:
        return
    mine = told(now())
    try:
        store = _store(TIME_LIMIT)
        # A store outlives a restart of its processes, and a program may train several times.
        place = f"tkernel/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_calls)}"
        store.set(f"{place}/{rank}", json.dumps(mine))
        for other in range(1, size) if rank == 0 else [0]:
            first, second = (rank, other) if rank == 0 else (other, rank)
            theirs = json.loads(store.get(f"{place}/{other}"))
            compare(first, second, size, *((mine, theirs) if rank == 0 else (theirs, mine)))
    except (RuntimeError, ValueError, OSError) as error:
        raise TkError(
            f"process {rank} of {size} has not heard of the others' plans: {error}",
            hint="Did all of them start, and do RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT fit?",
        ) from error


def told(content: lock.Lock) -> dict[str, str]:
    """What a process tells the others of its run."""
    settings = {
        f"settings {item.key}": json.dumps(item.value, default=lambda value: type(value).__qualname__)
        for item in content.settings
    }
    return settings | lock.contents(content)


def compare(first: int, second: int, size: int, one: Told, other: Told) -> None:
    """Raise `ProcessesDisagree` with what differs between the runs of two processes."""
    if lines := lock.difference(one, other):
        raise ProcessesDisagree(
            "\n  ".join([f"process {second} of {size} plans another run than process {first}", *lines]),
            hint="Give all processes the same file, overrides, TK_ARG_ variables and installed versions.",
        )


def _store(limit: int) -> Any:
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=limit)))
    _stores.append(store)
    return store
