"""What a run leaves in `output_dir` so that the model can be used: tokenizer, generation config."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from tkernel.types.bundle import ModelBundle
from tkernel.types.rendering import Renderer


def processing_class(bundle: ModelBundle, renderer: Renderer) -> Any:
    """A copy of the processor (else the tokenizer) whose chat template is that of the run."""
    # Not deep: only the chat template is set, and copying a large vocabulary takes tenths of a second.
    chosen = copy.copy(bundle.processor if bundle.processor is not None else bundle.tokenizer)
    if getattr(chosen, "tokenizer", None) is not None:
        chosen.tokenizer = copy.copy(chosen.tokenizer)
    template = renderer.jinja()
    if template is not None:
        chosen.chat_template = template
        if getattr(chosen, "tokenizer", None) is not None:
            chosen.tokenizer.chat_template = template
    return chosen


def padding_id(tokenizer: Any) -> int:
    """The id that fills batches; any id does, because padding is masked by position."""
    for value in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if value is not None:
            return int(value)
    return 0


def save_generation_config(module: Any, renderer: Renderer, output_dir: Path) -> None:
    """Write `generation_config.json` whose end-of-sequence ids are the template's stop ids."""
    model = module.get_base_model() if hasattr(module, "get_base_model") else module
    config = copy.deepcopy(getattr(model, "generation_config", None))
    if config is None:
        return
    if renderer.stop_ids:
        config.eos_token_id = list(renderer.stop_ids)
    if not config.do_sample and any(
        getattr(config, k) is not None for k in ("temperature", "top_p", "top_k")
    ):
        config.do_sample = True  # values for sampling without sampling are refused on saving
    config.save_pretrained(output_dir)
