"""What can be told of a stream before anything is read: the keys that it needs and those that it rules out."""

from __future__ import annotations

from collections.abc import Iterator

from tkernel.errors import Problem
from tkernel.types.check import CheckRequest
from tkernel_plugins.data.options import RowOptions


def check_streaming(request: CheckRequest) -> Iterator[Problem]:
    """What is wrong with `streaming: true` in this run; the `check` of dataset plugins."""
    if not (isinstance(request.options, RowOptions) and request.options.streaming):
        return
    settings, arguments = request.settings, request.arguments
    trains = request.train and arguments.get("do_train", settings.get("do_train")) is not False
    if trains and (arguments.get("max_steps") or 0) < 1:
        yield Problem(
            "`streaming: true` needs `max_steps`: a stream does not say how many samples it has",
            key="streaming",
            hint="Add `max_steps: 1000`, the number of optimizer steps.",
        )
    val_size = settings.get("val_size")
    if isinstance(val_size, float) and 0 < val_size < 1:
        yield Problem(
            f"`val_size: {val_size:g}` is a share, and a stream does not say how many rows it has",
            key="val_size",
            hint="Give a number of rows, such as `val_size: 500`.",
        )
    for key in ("save_strategy", "eval_strategy", "logging_strategy"):
        if arguments.get(key) == "epoch":
            yield Problem(
                f"`{key}: epoch` waits for the end of the data, and with `streaming` there is none",
                key=key,
                hint=f"Use `{key}: steps`.",
            )
    if arguments.get("train_sampling_strategy") == "group_by_length" or settings.get("group_by_length"):
        yield Problem(
            "samples of a stream cannot be grouped by length: most of them are not there yet",
            key="group_by_length" if "group_by_length" in settings else "train_sampling_strategy",
            hint="Leave it out.",
        )
    if settings.get("tokenized_path"):
        yield Problem(
            "`tokenized_path` keeps what was encoded before training, and a stream is encoded while training",
            key="tokenized_path",
            hint="Leave out one of `tokenized_path` and `streaming`.",
        )
