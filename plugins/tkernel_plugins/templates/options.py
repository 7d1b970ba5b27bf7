"""The keys of a configuration that change how a template renders."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TemplateOptions:
    """Options of every `template`."""

    default_system: str | None = None
    """The system prompt of conversations that have none; None keeps the template's own."""
    enable_thinking: bool | None = True
    """Reasoning templates only. True: replies without a thought learn an empty one. False: thoughts are
    left out, and an empty one is written into the prompt. None: thoughts stay as they are, and an empty
    one is written into the prompt where the reply has none."""
    preserve_thinking: bool = False
    """Keep the thoughts of earlier replies in prompts, and in training with `mask_history`."""
    tool_format: str | None = None
    """Write tools and calls in another format than the template's: default, gemma4, glm4, glm4_moe, lfm2,
    ling, llama3, minimax1, minimax2, mistral, qwen, qwen3_5, seed_oss."""
