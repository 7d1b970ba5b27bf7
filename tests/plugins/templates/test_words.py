"""Text that is encoded word by word has the ids that the tokenizer itself gives it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers.models import BPE

from tkernel.encoding import SegmentEncoder
from tkernel.testing.tiny import make_tokenizer
from tkernel.types.rendering import Segment
from tkernel_plugins.data.words import Words, words_of

REAL = ("smollm2", "qwen3", "llama3_1", "deepseek_v3")
EDGES = [
    " ",
    "\n",
    "  ",
    "\r\n",
    "\t",
    "'s",
    "'RE",
    "1",
    "23",
    "a",
    "\u00e9",
    "e\u0301",
    "\u4e2d",
    "'",
    ".",
    "\x85",
    "\u00a0",
]

a_real_tokenizer = functools.cache(make_tokenizer)


def ids_of(backend: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


def compared(words: Words, backend: Any, texts: list[str]) -> int:
    """How many texts were encoded word by word; all of them as the tokenizer does it."""
    own = [words(text) for text in texts]
    for text, ids, right in zip(texts, own, ids_of(backend, texts), strict=True):
        assert ids is None or memoryview(ids).cast("i").tolist() == right, text
    return sum(ids is not None for ids in own)


@given(
    texts=st.lists(
        st.text("ab 12\n</s>\u00e9\u0301\u017f\U0001f600", max_size=12),
        max_size=9,
    )
)
def test_texts_that_are_encoded_together_have_the_ids_that_they_have_alone(texts: list[str]) -> None:
    tokenizer = a_real_tokenizer()
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert SegmentEncoder(tokenizer).encode([Segment(text) for text in texts]) == alone


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_are_followed_through_every_character(
    tokenizer: Callable[[str], Any], name: str
) -> None:
    backend = tokenizer(name).backend_tokenizer
    words = words_of(backend)
    assert words is not None
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    assert compared(words, backend, [f"a{c} {c}1{c}{c}" for c in characters]) > 45_000
    drawn = random.Random(0)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    kinds = [characters, [chr(code) for code in range(128)], EDGES, added]
    texts = [
        "".join(drawn.choice(drawn.choice(kinds)) for _ in range(drawn.randrange(30))) for _ in range(20_000)
    ]
    assert compared(words, backend, texts) > 3_000


@pytest.mark.parametrize(
    "pattern",
    [r"[a-z&&[^b]]+", r"\p{L}{1,3}+|.", r"^a|b", r"\w+", r"(a)|b", r"(?<=a)b", r"[^\S\n]+", r"a*"],
)
def test_expressions_that_could_mean_something_else_are_left_to_the_tokenizer(pattern: str) -> None:
    from tokenizers import Regex

    backend = make_tokenizer().backend_tokenizer
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), last])
    assert words_of(backend) is None


def test_tokenizers_that_work_otherwise_are_left_alone() -> None:
    def changed(**fields: Any) -> Any:
        backend = make_tokenizer().backend_tokenizer
        for field, value in fields.items():
            setattr(backend, field, value)
        return backend

    byte_level = functools.partial(pre_tokenizers.ByteLevel, use_regex=True)
    assert words_of(changed(pre_tokenizer=byte_level(add_prefix_space=False))) is not None
    assert words_of(changed(pre_tokenizer=byte_level(add_prefix_space=True))) is None
    assert words_of(changed(pre_tokenizer=pre_tokenizers.Metaspace())) is None
    assert words_of(changed(normalizer=normalizers.Lowercase())) is None
    assert words_of(changed(model=BPE({"a": 0}, [], dropout=0.1))) is None


def test_added_tokens_that_swallow_spaces_are_left_to_the_tokenizer() -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<plain>", normalized=False)])
    words = words_of(tokenizer.backend_tokenizer)
    assert words is not None
    assert words("a <mask> b") is None
    assert (
        compared(words, tokenizer.backend_tokenizer, ["a <plain> b<plain>", "<plain", "<plain><plain>"]) == 3
    )


def test_what_is_remembered_is_bounded() -> None:
    words = words_of(make_tokenizer().backend_tokenizer)
    assert words is not None
    for number in range(70_000):
        words(f"{number:x}".translate(str.maketrans("0123456789", "ghijklmnop")))
    words("x" * 1000)
    assert len(words) <= 1 << 16
    assert max(map(len, words)) <= 64
