"""`tk`: fine-tune, align, serve and export language models with a plugin-based microkernel.

    import tkernel
    result = tkernel.run("train.yaml", overrides=["learning_rate=1e-5"])

Plugin authors import from here, from `tkernel.hookspecs`, `tkernel.rendering`, `tkernel.errors`,
`tkernel.testing` and `tkernel.types.*`.
"""

from __future__ import annotations

from typing import Any

from tkernel.hookspecs import hookimpl
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.stage import StageResult

__all__ = ["Conversation", "Message", "ModelBundle", "StageResult", "ToolCall", "hookimpl", "run"]


def __getattr__(name: str) -> Any:
    # `run` brings the whole kernel along, which a plugin that imports `hookimpl` does not need.
    if name == "run":
        from tkernel.pipeline import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
