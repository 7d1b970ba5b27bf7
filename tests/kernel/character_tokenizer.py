"""A tokenizer of single characters, with special tokens: the part of transformers' interface that is used."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class AddedToken:
    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class CharacterTokenizer:
    """Ids below 1000 are added tokens, in order; a character's id is 1000 + its code."""

    def __init__(self, *added: str | AddedToken, eos: str | None = "</s>") -> None:
        tokens = [token if isinstance(token, AddedToken) else AddedToken(token) for token in added]
        self.added_tokens_decoder = dict(enumerate(tokens))
        self.eos_token = eos
        self.encoded: list[str] = []

    @property
    def all_special_tokens(self) -> list[str]:
        return [token.content for token in self.added_tokens_decoder.values() if token.special]

    def convert_tokens_to_ids(self, text: str) -> int | None:
        names = {token.content: i for i, token in self.added_tokens_decoder.items()}
        return names.get(text)

    def encode(
        self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> list[int]:
        self.encoded.append(text)
        tokens = [
            token
            for token in self.added_tokens_decoder.values()
            if not (split_special_tokens and token.special)
        ]
        around = {token.content: (token.lstrip, token.rstrip) for token in tokens}
        patterns = [
            ("\\s*" if left else "") + f"({re.escape(name)})" + ("\\s*" if right else "")
            for name, (left, right) in around.items()
        ]
        ids, position = [], 0
        for match in re.finditer("|".join(patterns) or "(?!)", text):
            ids += [1000 + ord(character) for character in text[position : match.start()]]
            name = next(group for group in match.groups() if group is not None)
            token_id = self.convert_tokens_to_ids(name)
            assert token_id is not None
            ids.append(token_id)
            position = match.end()
        return ids + [1000 + ord(character) for character in text[position:]]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 1000) if i >= 1000 else self.added_tokens_decoder[i].content for i in ids)
