"""`template: auto`, the default: the chat template that comes with the tokenizer; or one in a Jinja file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from importlib_metadata import entry_points

from tkernel import hookimpl
from tkernel.errors import DataError, TkError
from tkernel.rendering import SegmentRenderer
from tkernel.types.conversation import Conversation, Message, ToolCall
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.jinja_file import read_jinja, tokens_in
from tkernel_plugins.templates.own_template import OwnTemplate
from tkernel_plugins.templates.special_tokens import add_stop_words
from tkernel_plugins.templates.tool_formats import TOOL_FORMATS, ToolFormat

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_ASKED, _SAID, _THOUGHT = (
    "3f9a",
    "7c2e",
    "5b1d",
)  # contents of the conversations that templates are tried with
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}


@dataclass(frozen=True)
class AutoOptions:
    """Options of `template: auto`."""

    default_system: str | None = None
    """The system prompt of conversations that have none; None leaves that to the chat template."""
    enable_thinking: bool | None = None
    """Given to the chat template; None leaves it to the template. False leaves thoughts out of replies."""


@dataclass(frozen=True)
class AutoTemplate:
    """Renders with a Jinja chat template: the tokenizer's own, or `jinja` where that is given.

    A reply is what the template writes after the opening of a reply: the content, its terminator and a
    line break after that, if the template writes one, as in the named templates. Where the template ends
    replies with no token, the end-of-sequence token follows the last reply, and after an earlier one it is
    learned in place of the next prompt's first token.
    """

    Options: ClassVar[type[AutoOptions]] = AutoOptions

    name: str = "auto"
    file: Path | None = None
    jinja: str | None = field(default=None, repr=False)

    def of_file(self, file: Path) -> AutoTemplate:
        """The template that is written in a Jinja file (`template: ./mine.jinja`).

        Raises:
            BrokenPlugin: it is no Jinja.
        """
        return AutoTemplate(file.stem, file, read_jinja(file))

    @property
    def contract(self) -> Mapping[str, Any]:
        """What the contract suite cannot know of a file: its tokens, and what ends its replies."""
        if self.jinja is None:
            return {}
        from tkernel.testing import tiny

        special = tuple(dict.fromkeys((*tiny.SPECIAL_TOKENS, *tokens_in(self.jinja))))
        tokenizer = tiny.make_tokenizer(special)
        own = _understand(tokenizer, self.jinja, AutoOptions())
        told: dict[str, Any] = {"special_tokens": special}
        try:
            earlier, last = own.every_turn(_asking_twice())
        except DataError:  # it cannot be trained on plain replies; the checks will say so
            return told
        frames = ["".join(segment.text for segment in turn.reply).split(_SAID) for turn in (earlier, last)]
        (before, after), (opening, end) = frames[0], frames[1]
        unended = not own.tokens.search(end)
        ends = "|".join(
            re.escape(text + tokenizer.eos_token * unended) for text in dict.fromkeys((after, end))
        )
        return {
            **told,
            "efficient_eos": unended,
            "reply_prefix": f"({'|'.join(map(re.escape, dict.fromkeys((before, opening))))})",
            "terminator": f"({ends})",
            "closing": end.removeprefix(after),
            "forgets": before != opening,
        }

    @hookimpl
    def render_template(self, request: TemplateRequest) -> SegmentRenderer:
        tokenizer, options = request.tokenizer, request.options or AutoOptions()
        if not tokenizer.chat_template and request.facts is not None and request.facts.chat_template:
            tokenizer.chat_template = request.facts.chat_template
        jinja = self.jinja or tokenizer.chat_template
        if not jinja:
            raise TkError(
                "the model brings no chat template, so `template: auto` has nothing to go by",
                hint=f"Name the template that the model was trained with: {_candidates(request.facts)}.",
            )
        added = add_stop_words(tokenizer, (), replace_eos=False)
        own = _understand(tokenizer, jinja, options)
        tail = _tail(own)
        terminators = own.tokens.findall(tail)
        return SegmentRenderer(
            self.name,
            tokenizer,
            own.every_turn,
            last_turns_of=own.last_turn,
            prompt_of=own.prompt,
            stop_words=[*terminators, tokenizer.eos_token, *_ends(request.facts, tokenizer)],
            added_tokens=added,
            efficient_eos=not terminators,
            parse=partial(_parse, _tool_format(own, tail), _thought_words(own), tail),
            jinja=partial(str, jinja),
        )


TEMPLATE = AutoTemplate()


def _candidates(facts: ModelFacts | None) -> str:
    """Names of templates: those that sound like the model, if there are any."""
    names = sorted({entry.name for entry in entry_points(group="tkernel.template")} - {"auto"})
    family = re.sub(r"\d.*", "", facts.model_type) if facts is not None else ""
    return ", ".join([name for name in names if family and name.startswith(family)] or names)


def _asking(**reply: Any) -> Conversation:
    return Conversation((Message("user", _ASKED), Message("assistant", **reply)))


def _asking_twice() -> Conversation:
    once = _asking(content=_SAID)
    return once.replace(messages=once.messages * 2)


_CALL = ToolCall("look_up", json.dumps({"word": _SAID}))
_CALLING = _asking(tool_calls=(_CALL,))


def _understand(tokenizer: Any, jinja: str, options: AutoOptions) -> OwnTemplate:
    """The template with what has to be found out about it: where thoughts go, the form of contents and calls."""
    own = OwnTemplate(tokenizer, jinja, options.enable_thinking, options.default_system)
    said = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}]
    try:
        parts = _ASKED not in own.render(said, None, waiting=False)
    except DataError:
        parts = True
    own = replace(own, parts=parts, _layouts={})
    if not any(_SAID in text for text in _texts(replace(own, thinking=None, _layouts={}), _CALLING)):
        tried = replace(own, thinking=None, text_arguments=True, _layouts={})
        as_text = any(_SAID in text for text in _texts(tried, _CALLING))
        own = replace(own, text_arguments=as_text, _layouts={})
    for key in _REASONING_KEYS:
        tried = replace(own, thinking=None, reasoning_key=key, _layouts={})
        if any(_THOUGHT in text for text in _texts(tried, _asking(content=_SAID, reasoning=_THOUGHT))):
            return replace(own, reasoning_key=key, _layouts={})
    return own


def _texts(own: OwnTemplate, conversation: Conversation) -> Iterator[str]:
    """The text of prompt and reply of a conversation of one turn; nothing if the template cannot write it."""
    try:
        (turn,) = own.every_turn(conversation)
    except DataError:
        return
    for segments in (turn.prompt, turn.reply):
        yield "".join(segment.text for segment in segments)


def _tail(own: OwnTemplate) -> str:
    """What the template writes after the content of a reply; empty if it can only write prompts."""
    texts = list(_texts(own, _asking(content=_SAID)))
    return texts[1].rpartition(_SAID)[2] if len(texts) == 2 else ""


def _thought_words(own: OwnTemplate) -> tuple[str, str]:
    """What the template writes before and after a thought."""
    texts = list(_texts(replace(own, thinking=None, _layouts={}), _asking(content=_SAID, reasoning=_THOUGHT)))
    if len(texts) == 2 and _THOUGHT in texts[1]:
        before, _, rest = texts[1].partition(_THOUGHT)
        return before, rest.partition(_SAID)[0]
    return "<think>\n", "\n</think>\n\n"


def _tool_format(own: OwnTemplate, tail: str) -> ToolFormat | None:
    """The tool format that reads the calls which the template writes."""
    plain = replace(own, thinking=None, _layouts={})
    texts = list(_texts(plain, _CALLING.replace(tools=(_TOOL,)))) or list(_texts(plain, _CALLING))
    if len(texts) != 2:
        return None
    body = texts[1].removesuffix(tail)
    readers = (f for f in TOOL_FORMATS.values() if (read := f.read(body)) and read[1] == [_CALL])
    return next(readers, None)


def _ends(facts: ModelFacts | None, tokenizer: Any) -> list[str]:
    """Tokens that the model's own configuration names as ends of a reply."""
    if facts is None:
        return []
    found = [facts.config.get("eos_token_id")]
    if facts.location and (file := Path(facts.location) / "generation_config.json").is_file():
        found.append(json.loads(file.read_text(encoding="utf-8")).get("eos_token_id"))
    ids = [i for value in found for i in (value if isinstance(value, list) else [value]) if i is not None]
    return [token for i in ids if i < len(tokenizer) and (token := tokenizer.convert_ids_to_tokens(i))]


def _parse(tools: ToolFormat | None, thought_words: tuple[str, str], tail: str, text: str) -> Message:
    """Take thought and calls out of a reply, as the template writes them."""
    for length in range(len(tail), 0, -1):
        if text.endswith(tail[:length]):
            text = text[:-length]
            break
    reasoning = None
    before, after = thought_words
    if text.startswith(before) and after in text[len(before) :]:
        reasoning, _, text = text[len(before) :].partition(after)
    called = tools.read(text) if tools is not None else None
    if called is None:
        return Message("assistant", text, reasoning=reasoning)
    content, calls = called
    return Message("assistant", content, tool_calls=tuple(calls), reasoning=reasoning)
