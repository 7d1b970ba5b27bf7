"""The tokenizer and the processor of a model. Not a plugin; a library of this folder."""

from __future__ import annotations

import logging
from typing import Any

from tkernel.errors import TkError
from tkernel.types.facts import ModelFacts
from tkernel_plugins.models.checkpoint import Source
from tkernel_plugins.models.gguf_file import GgufFile
from tkernel_plugins.models.options import ModelOptions

logger = logging.getLogger(__name__)

PAD_TOKENS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<unk>")
"""Tokens that serve as padding, in this order, where a tokenizer names none."""


def load_tokenizer(
    source: Source, options: ModelOptions, file: GgufFile | None
) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer, with the tokens that the options add, and those tokens' ids.

    A tokenizer without a padding token gets the first of `PAD_TOKENS` that it has, else its end of text. No
    label depends on that: padding is masked by position, never by id.
    """
    if not options.use_fast_tokenizer:
        logger.warning("use_fast_tokenizer: false has no effect: transformers 5 has fast tokenizers only")
    kwargs: dict[str, Any] = {"split_special_tokens": options.split_special_tokens}
    if options.model_max_length is not None:
        kwargs["model_max_length"] = options.model_max_length
    if file is not None:
        from tkernel_plugins.models.gguf_tokenizer import gguf_tokenizer

        tokenizer = gguf_tokenizer(file, **kwargs)
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.kwargs, **kwargs)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _pad_token(tokenizer, source)
    return tokenizer, _add_tokens(tokenizer, options)


def load_processor(facts: ModelFacts, source: Source, tokenizer: Any) -> Any:
    """The processor of a model with images or sound, working without torchvision; None for text models."""
    if not facts.is_multimodal or facts.source == "gguf":
        return None
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(source.path, **source.kwargs, backend="pil")
    except (OSError, ValueError, ImportError) as error:
        raise TkError(
            f"the processor of {facts.name} cannot be loaded: {error}",
            hint="The folder needs processor_config.json or preprocessor_config.json, and Pillow: "
            "pip install 'tkernel[media]'.",
        ) from error
    processor.tokenizer = tokenizer
    return processor


def _pad_token(tokenizer: Any, source: Source) -> str:
    vocabulary = tokenizer.get_vocab()
    token = next((name for name in PAD_TOKENS if name in vocabulary), tokenizer.eos_token)
    if token is None:
        raise TkError(
            f"the tokenizer of {source.path} names neither a padding token nor an end of text",
            hint="Add `pad_token` to its tokenizer_config.json, or `add_special_tokens: <pad>`.",
        )
    return str(token)


def _add_tokens(tokenizer: Any, options: ModelOptions) -> tuple[int, ...]:
    before = len(tokenizer)
    for listed, special in ((options.add_tokens, False), (options.add_special_tokens, True)):
        tokens = [token.strip() for token in (listed or "").split(",") if token.strip()]
        tokenizer.add_tokens(tokens, special_tokens=special)
    return tuple(range(before, len(tokenizer)))
