"""What a named template needs of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def add_stop_words(tokenizer: Any, stop_words: Sequence[str], replace_eos: bool) -> tuple[str, ...]:
    """Make `stop_words` special tokens; with `replace_eos` the first one ends sequences from now on.

    A tokenizer without an end-of-sequence token gets `<|endoftext|>`, one without padding pads with its
    end-of-sequence token.

    Returns:
        The tokens that the vocabulary did not have, in the order of their new ids.
    """
    before = tokenizer.get_vocab().keys()
    wanted = list(stop_words)
    if replace_eos:
        tokenizer.add_special_tokens({"eos_token": wanted.pop(0)})
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if wanted:
        extra = {"additional_special_tokens": wanted}
        tokenizer.add_special_tokens(extra, replace_extra_special_tokens=False)
    new = [word for word in dict.fromkeys((*stop_words, tokenizer.eos_token)) if word not in before]
    return tuple(sorted(new, key=tokenizer.convert_tokens_to_ids))
