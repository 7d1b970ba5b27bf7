"""Segments to token ids: every segment on its own, many at once, special tokens only where the template put them."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from tkernel.errors import TkError
from tkernel.library import library
from tkernel.types.rendering import Segment

# The template's own texts are few; this bounds those of templates that print the time.
_CACHE_LIMIT = 4096
_NOTHING = array("i")


class SegmentEncoder:
    """Encodes segments with a `transformers` tokenizer (or anything with the same few methods).

    Text of the data (`Segment.typed`) that spells a special token stays text; the template's own text
    becomes the token. A segment whose typed text spells none is encoded as a whole, exactly as the
    tokenizer encodes it without adding special tokens. Added tokens that are not special (`<think>` of
    Qwen3) are tokens wherever they occur.

    Args:
        tokenizer: has `encode(text, add_special_tokens=, split_special_tokens=)`,
            `convert_tokens_to_ids`, `all_special_tokens` and, if it has them, `added_tokens_decoder` and
            `backend_tokenizer` (a `tokenizers.Tokenizer`, which encodes batches in parallel).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = backend if hasattr(backend, "encode_batch_fast") else None
        self._without_special: Any = None
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {t.content: t for t in added.values() if t.special}
        self._special.update(
            {text: None for text in tokenizer.all_special_tokens if text not in self._special}
        )
        self._special_ids = {self._special_id(text) for text in self._special}
        # A special token that is matched after normalisation can be spelled in ways that no pattern lists.
        self._normalized = any(getattr(token, "normalized", False) for token in self._special.values())
        longest_first = sorted(filter(None, self._special), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._constant: dict[tuple[str, bool], array[int]] = {}

    def token_id(self, text: str) -> int:
        """The id of the token named `text`.

        Raises:
            TkError: the vocabulary has no such token.
        """
        token_id = self.tokenizer.convert_tokens_to_ids(text)
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        if token_id is None or (token_id == unknown and text != self.tokenizer.unk_token):
            raise TkError(
                f"the tokenizer has no token {text!r}, which the template needs",
                hint=f"Add it with `add_special_tokens: {text}`, or choose the template that belongs to the model.",
            )
        return int(token_id)

    def encode(self, segments: Sequence[Segment]) -> list[list[int]]:
        """The ids of each segment, in order."""
        return [ids.tolist() for ids in self.arrays(segments)]

    def arrays(self, segments: Sequence[Segment]) -> list[array[int]]:
        """The same, the ids as C integers: a list of them is slow to copy."""
        texts: dict[str, array[int]] = {}
        known: list[array[int] | None] = []
        for segment in segments:
            if not segment.typed and (segment.text, segment.special) in self._constant:
                known.append(self._constant[segment.text, segment.special])
            elif segment.special:
                ids = array("i", [self._special_id(segment.text)])
                known.append(self._constant.setdefault((segment.text, True), ids))
            elif segment.typed and self._spells_special(segment):
                known.append(array("i", self._guarded(segment)))
            else:
                texts[segment.text] = _NOTHING
                known.append(None)
        texts = dict(zip(texts, self._batch(list(texts)), strict=True))
        encoded = []
        for segment, own in zip(segments, known, strict=True):
            ids = texts[segment.text] if own is None else own
            if own is None and not segment.typed and len(self._constant) < _CACHE_LIMIT:
                self._constant[segment.text, False] = ids
            elif own is None and self._normalized and segment.typed and not self._only_own(segment, ids):
                ids = array("i", self._guarded(segment))
            encoded.append(ids)
        return encoded

    def _special_id(self, text: str) -> int:
        """The id of a special segment; a tokenizer with an unknown token has that for tokens it lacks, as in
        LLaMA-Factory."""
        token_id = self.tokenizer.convert_tokens_to_ids(text)
        return self.token_id(text) if token_id is None else int(token_id)

    def _batch(self, texts: list[str]) -> Iterator[array[int]]:
        """Each text as the tokenizer encodes it, without special tokens added around it."""
        if self._backend is None:
            for text in texts:
                yield array("i", self.tokenizer.encode(text, add_special_tokens=False))
            return
        found = [None if self._words is None else self._words(text) for text in texts]
        # transformers leaves the settings of its last call on the backend.
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()
        rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        encodings = iter(self._backend.encode_batch_fast(rest, add_special_tokens=False) if rest else ())
        for ids in found:
            yield array("i", next(encodings).ids if ids is None else ids)

    @cached_property
    def _words(self) -> Callable[[str], bytes | None] | None:
        """The faster way, where the tokenizer allows it: a text -> its ids as C integers, None for some texts."""
        words: Callable[[str], bytes | None] | None = library("words_of")(self._backend)
        return words

    def _spells_special(self, segment: Segment) -> bool:
        """Whether a special token's text lies in, or reaches into, text of the data."""
        for match in self._pattern.finditer(segment.text):
            first, last = match.span()
            for start, end in segment.typed:
                if first < end and start < last:
                    return True
        return False

    def _only_own(self, segment: Segment, ids: Iterable[int]) -> bool:
        """Whether the special tokens among `ids` are as many as the template itself wrote."""
        return sum(i in self._special_ids for i in ids) == sum(1 for _ in self._own_tokens(segment))

    def _own_tokens(self, segment: Segment) -> Iterator[tuple[int, int, str]]:
        """`(start, end, text)` of every special token in the template's own stretches of a segment."""
        edges = [0, *(edge for span in sorted(segment.typed) for edge in span), len(segment.text)]
        for left, right in zip(edges[::2], edges[1::2], strict=True):
            for match in self._pattern.finditer(segment.text, left, right):
                start, end = match.span()
                token = self._special[match[0]]
                if token is not None and token.lstrip:
                    start = len(segment.text[:start].rstrip())
                if token is not None and token.rstrip:
                    end = len(segment.text) - len(segment.text[end:].lstrip())
                yield start, end, match[0]

    def _guarded(self, segment: Segment) -> list[int]:
        """A segment whose data spells special tokens: its own tokens by id, all between them as text."""
        ids: list[int] = []
        position = 0
        for start, end, text in self._own_tokens(segment):
            ids += self._as_text(segment.text[position:start])
            ids.append(self.token_id(text))
            position = max(position, end)
        return ids + self._as_text(segment.text[position:])

    def _as_text(self, text: str) -> list[int]:
        """Ids of `text` with special tokens read as ordinary text."""
        if not text:
            return []
        ids = self._encode_without_special(text)
        if self._special_ids.isdisjoint(ids):
            return ids
        # Some models (Unigram) know special tokens as ordinary pieces too: single characters cannot be one.
        return [i for character in text for i in self._encode_without_special(character)]

    def _encode_without_special(self, text: str) -> list[int]:
        if self._backend is None:
            encode = self.tokenizer.encode
            return list(encode(text, add_special_tokens=False, split_special_tokens=True))
        if self._without_special is None:
            # A copy: switching special tokens off on the shared tokenizer would be seen by other threads.
            self._without_special = type(self._backend).from_str(self._backend.to_str())
            self._without_special.encode_special_tokens = True
            self._without_special.no_truncation()
            self._without_special.no_padding()
        return list(self._without_special.encode(text, add_special_tokens=False).ids)
