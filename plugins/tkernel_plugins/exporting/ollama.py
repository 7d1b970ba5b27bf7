"""Ollama's `Modelfile`: the template as a Go template, taken from what the renderer makes of conversations.

Format: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx and template.mdx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tkernel.errors import DataError
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Renderer

_SYSTEM, _ASKED, _SAID, _AGAIN, _LAST = (
    "\ue000s\ue000",
    "\ue000a\ue000",
    "\ue000b\ue000",
    "\ue000c\ue000",
    "\ue000d\ue000",
)


@dataclass(frozen=True)
class Pieces:
    """The text around system prompt, questions and replies."""

    before_system: str
    after_system: str
    without_system: str
    """What stands before the first question where no system prompt is given."""
    later: str
    """What stands before a further question."""
    before_reply: str
    after_reply: str

    def text(self, conversation: Conversation) -> str:
        """The conversation put together from the pieces."""
        system = conversation.system
        first = self.without_system if system is None else self.before_system + system + self.after_system
        parts: list[str] = []
        for message in conversation.turns:
            if message.role == "user":
                parts += [self.later if parts else first, message.content, self.before_reply]
            else:
                parts += [message.content, self.after_reply]
        return "".join(parts)


def pieces_of(renderer: Renderer) -> Pieces | None:
    """The pieces of a template; None for one that cannot be put together from them."""
    asked, again = Message("user", _ASKED), Message("user", _AGAIN)
    said, last = Message("assistant", _SAID), Message("assistant", _LAST)
    plain = Conversation((asked, said, again, last))
    try:
        whole = renderer.text(plain)
        with_system = renderer.text(Conversation((Message("system", _SYSTEM), *plain.messages)))
    except DataError:
        return None
    try:
        without_system, rest = whole.split(_ASKED)
        before_reply, rest = rest.split(_SAID)
        between, rest = rest.split(_AGAIN)
        before_last, after_reply = rest.split(_LAST)
        before_system, rest = with_system.split(_SYSTEM)
        after_system, _ = rest.split(_ASKED)
    except ValueError:
        return None
    if not between.startswith(after_reply) or before_last != before_reply:
        return None
    later = between.removeprefix(after_reply)
    found = Pieces(before_system, after_system, without_system, later, before_reply, after_reply)
    return found if found.text(plain) == whole else None


def modelfile(renderer: Renderer, config: Any) -> str:
    """The text of a `Modelfile` for the folder that it lies in.

    Of a template that is more than text around messages no TEMPLATE is written: Ollama then takes what it makes
    of the chat template in `tokenizer_config.json`.
    """
    pieces = pieces_of(renderer)
    lines = [f"# Template {renderer.name}; written by tk export", "FROM .", ""]
    if pieces is not None:
        lines += [f'TEMPLATE """{go_template(pieces)}"""', ""]
    lines += [f"PARAMETER stop {_quoted(word)}" for word in renderer.stop_words]
    longest = getattr(config, "max_position_embeddings", None)
    if longest:
        lines.append(f"PARAMETER num_ctx {min(int(longest), 8192)}")
    return "\n".join(lines) + "\n"


def go_template(pieces: Pieces) -> str:
    """The pieces as a Go template over Ollama's `.System` and `.Messages`."""
    return "".join(
        [
            "{{- $first := true }}{{ range .Messages }}",
            '{{ if eq .Role "user" }}{{ if $first }}{{ $first = false }}{{ if $.System }}',
            f"{_escaped(pieces.before_system)}{{{{ $.System }}}}{_escaped(pieces.after_system)}",
            f"{{{{ else }}}}{_escaped(pieces.without_system)}{{{{ end }}}}",
            f"{{{{ else }}}}{_escaped(pieces.later)}{{{{ end }}}}",
            f"{{{{ .Content }}}}{_escaped(pieces.before_reply)}",
            f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{_escaped(pieces.after_reply)}',
            "{{ end }}{{ end }}",
        ]
    )


def _escaped(text: str) -> str:
    """Text that a Go template and the quotes around it leave as it is."""
    for mark in ("{{", "}}", '"""'):
        text = text.replace(mark, f"\ue001{mark}\ue001")
    return "".join(
        f"{{{{ `{part}` }}}}" if number % 2 else part for number, part in enumerate(text.split("\ue001"))
    )


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
