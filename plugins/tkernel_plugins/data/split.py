"""`val_size`: which rows are evaluated on instead of trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tkernel.errors import TkError

if TYPE_CHECKING:
    import numpy as np


def split_order(order: np.ndarray, val_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to evaluate on, both in the order in which they are seen.

    The choice is LLaMA-Factory's, that of `datasets.Dataset.train_test_split`: all rows of the merged
    datasets are shuffled with the seed and split before those that cannot be used are left out.
    `val_size` is a share up to 1, or a number of rows.

    Raises:
        TkError: nothing is left to train on.
    """
    import numpy as np

    rows = len(order)
    size = int(val_size) if val_size > 1 else math.ceil(val_size * rows)
    if size >= rows:
        raise TkError(
            f"`val_size: {val_size:g}` leaves none of the {rows:,} rows to train on",
            hint="Take a smaller number, or a share such as 0.1.",
        )
    shuffled = np.random.default_rng(seed).permutation(rows)
    return order[shuffled[size:]], order[shuffled[:size]]
