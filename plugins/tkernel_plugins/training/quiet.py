"""Keep libraries from talking over the run; what is wrong still comes through."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHATTER = (
    "The tokenizer has new PAD/BOS/EOS tokens",
    "No label_names provided for model class",
    "`use_cache=True` is incompatible with",
    "Could not find a config file in",
    "There were missing keys in the checkpoint model loaded: ['lm_head.weight'].",
    "torch.utils.checkpoint: the use_reentrant parameter",
    "'pin_memory' argument is set as true but no accelerator is found",
    "`is_gradient_checkpointing` is deprecated",
    "Warning: The following arguments do not match the ones in the `trainer_state.json`",
    "You passed `quantization_config` or equivalent parameters to `from_pretrained`",
    ".g_idx",
)
"""Beginnings of messages that tell the user nothing to act upon: `tk` took care of what they are about."""

LOGGERS = ("transformers", "datasets", "peft", "accelerate")


class _Chatter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in CHATTER)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers and datasets, and none of the messages in `CHATTER`."""
    from transformers.utils import logging as transformers_logging

    datasets: Any = sys.modules.get("datasets")  # its bars are its own only once somebody uses it
    drawn = transformers_logging.is_progress_bar_enabled()
    mapped = datasets is not None and not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    if mapped:
        datasets.disable_progress_bars()
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    chatter = _Chatter()
    for handler in handlers:
        handler.addFilter(chatter)
    try:
        with warnings.catch_warnings():
            for text in CHATTER:
                warnings.filterwarnings("ignore", message=f".*{re.escape(text)}")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(chatter)
        if drawn:
            transformers_logging.enable_progress_bar()
        if mapped:
            datasets.enable_progress_bars()
