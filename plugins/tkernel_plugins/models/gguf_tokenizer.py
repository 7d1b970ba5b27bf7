"""The tokenizer that a GGUF file describes. Not a plugin; a library of this folder.

A byte-level BPE vocabulary does not say how text is cut before merging; `tokenizer.ggml.pre` names it,
and llama.cpp's `src/llama-vocab.cpp` says what each name means. Sentencepiece and unigram vocabularies
carry everything themselves and are left to transformers' conversion.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tkernel.errors import TkError
from tkernel_plugins.models.gguf_file import GgufFile

logger = logging.getLogger(__name__)

DIGITS = "DIGITS"
"""Stands for: every digit (any character of Unicode's class N) is a piece of its own."""

_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_CONTRACTION}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTION}|{_WORDS}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _cased(contraction: str, digits: str) -> str:
    """Words cut where lower case is followed by upper case, as tiktoken's o200k does."""
    first = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{first}{_UPPER}*{_LOWER}+{contraction}|{first}{_UPPER}+{_LOWER}*{contraction}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class PreTokenizer:
    """How text is cut before merging: each pattern in turn cuts the pieces that the one before left.

    `ignore_merges`: a piece that is a token as a whole is that token, whatever the merges say.
    `adds_bos`: what holds when the file has no `tokenizer.ggml.add_bos_token`.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


GPT2 = PreTokenizer((_GPT2,))
DIGIT_GPT2 = PreTokenizer((DIGITS, _GPT2))
LLAMA3 = PreTokenizer((_LLAMA3,), ignore_merges=True, adds_bos=True)
LLAMA3_MERGED = PreTokenizer((_LLAMA3,))
QWEN2 = PreTokenizer((_QWEN2,))
GPT4O = PreTokenizer((_cased(f"{_CONTRACTION}?", r"\p{N}{1,3}"),))
FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"))
DEEPSEEK3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
DEEPSEEK_CODER = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"))
DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"))

_NAMES: Mapping[PreTokenizer, str] = {
    GPT2: "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert mpt olmo "
    "jais exaone4 trillion granite-docling",
    DIGIT_GPT2: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    LLAMA3: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    LLAMA3_MERGED: "dbrx smaug-bpe glm4 chatglm-bpe",
    QWEN2: "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
    PreTokenizer((_QWEN35,)): "qwen35",
    PreTokenizer((_cased("", r"\p{N}"),), ignore_merges=True, adds_bos=True): "tekken",
    GPT4O: "gpt-4o llama4 kanana2 talkie minimax-m2",
    FALCON: "falcon",
    DEEPSEEK3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    DEEPSEEK_CODER: "deepseek-coder",
    DEFAULT: "default",
}
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {n: pre for pre, names in _NAMES.items() for n in names.split()}
"""`tokenizer.ggml.pre` -> how text is cut."""

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def gguf_tokenizer(file: GgufFile, **kwargs: Any) -> Any:
    """The `PreTrainedTokenizerFast` that `file` describes, with its special tokens and chat template.

    Args:
        file: the header, read.
        kwargs: for the tokenizer's constructor, over what the file says.

    Raises:
        TkError: the file holds no vocabulary, or of a kind that cannot be rebuilt.
    """
    model = file.metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        return _byte_level(file, kwargs)
    if model in ("llama", "gemma4", "t5"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(file.path.parent), gguf_file=file.path.name, **kwargs)
    raise TkError(
        f"{file.path} describes its tokenizer as {model!r}; gpt2, llama, gemma4 and t5 can be rebuilt",
        hint="Use the model's folder with tokenizer.json instead of the GGUF file.",
    )


def pre_tokenizer_of(file: GgufFile) -> PreTokenizer:
    """What `tokenizer.ggml.pre` names; an unknown name is a warning that says so, and GPT-2's is taken."""
    name = file.metadata.get("tokenizer.ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        logger.warning(
            "%s: tokenizer.ggml.pre is %r, which tk does not know; text is cut as GPT-2 does, so ids may "
            "differ from the model's own. Known: %s.",
            file.path.name,
            name,
            ", ".join(sorted(PRE_TOKENIZERS)),
        )
    return PRE_TOKENIZERS.get(name, GPT2)


def _byte_level(file: GgufFile, kwargs: Mapping[str, Any]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    meta = file.metadata
    tokens = meta["tokenizer.ggml.tokens"]
    types = meta.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens)
    pre = pre_tokenizer_of(file)
    special = {
        name: tokens[meta[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{key}_token_id" in meta
    }
    bpe = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[_pair(merge) for merge in meta["tokenizer.ggml.merges"]],
            unk_token=special.get("unk"),
            ignore_merges=pre.ignore_merges,
        )
    )
    # ByteLevel's own pattern is GPT-2's, and faster than the same one in Split.
    ends_as_gpt2 = pre.patterns[-1] == _GPT2
    cuts = [_cut(pattern) for pattern in (pre.patterns[:-1] if ends_as_gpt2 else pre.patterns)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=ends_as_gpt2)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level]) if cuts else byte_level
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(
        [
            AddedToken(t, special=True, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _CONTROL
        ]
    )
    bpe.add_tokens(
        [
            AddedToken(t, normalized=False)
            for t, kind in zip(tokens, types, strict=True)
            if kind == _USER_DEFINED
        ]
    )
    if meta.get("tokenizer.ggml.add_bos_token", pre.adds_bos) and "bos" in special:
        bos = special["bos"]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    described = {f"{name}_token": token for name, token in special.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        clean_up_tokenization_spaces=False,
        model_max_length=meta.get(f"{file.architecture}.context_length", int(1e30)),
        chat_template=meta.get("tokenizer.chat_template"),
        **{**described, **kwargs},
    )


def _cut(pattern: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if pattern == DIGITS:
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def _pair(merge: str) -> tuple[str, str]:
    middle = merge.index(" ", 1)
    return merge[:middle], merge[middle + 1 :]
