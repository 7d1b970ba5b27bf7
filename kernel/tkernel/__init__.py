"""`tk`: fine-tune, align, serve and export language models with a plugin-based microkernel."""

from tkernel.hookspecs import hookimpl
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.stage import StageResult

__all__ = ["Conversation", "Message", "ModelBundle", "StageResult", "ToolCall", "hookimpl", "run"]
