"""Texts that a real tokenizer gets in one go have the ids that they have alone."""

from __future__ import annotations

import functools

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from tkernel.encoding import SegmentEncoder
from tkernel.testing.tiny import make_tokenizer
from tkernel.types.rendering import Segment

a_real_tokenizer = functools.cache(make_tokenizer)

PIECES = st.lists(st.text("ab 12\n</s>é\u0301", max_size=12), min_size=1, max_size=9)


@settings(deadline=None)
@given(texts=PIECES, longer=st.booleans())
def test_texts_that_are_encoded_together_have_the_ids_that_they_have_alone(
    texts: list[str], longer: bool
) -> None:
    tokenizer = a_real_tokenizer()
    given = [text + "x" * 600 * longer for text in texts]
    alone = [tokenizer.encode(text, add_special_tokens=False) for text in given]
    assert SegmentEncoder(tokenizer).encode([Segment(text) for text in given]) == alone


def test_texts_are_encoded_apart_where_the_first_is_encoded_differently() -> None:
    tokenizer = make_tokenizer()
    words = pre_tokenizers.Metaspace(replacement="u", prepend_scheme="first")
    tokenizer.backend_tokenizer.pre_tokenizer = words
    given = [Segment("he"), Segment("in")]
    encoder = SegmentEncoder(tokenizer)
    assert encoder.encode(given) == [tokenizer.encode("he"), tokenizer.encode("in")]
    assert encoder._separator == ""
