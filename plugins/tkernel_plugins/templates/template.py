"""A chat template as a value.

A template says, as tuples of slots, what stands around the content of each kind of message. How a
conversation becomes turns is the same for all of them (`tkernel_plugins.templates.writer`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from tkernel import hookimpl
from tkernel.errors import TkError
from tkernel.rendering import SegmentRenderer
from tkernel.types.requests import TemplateRequest
from tkernel_plugins.templates.chat_template import chat_template
from tkernel_plugins.templates.options import TemplateOptions
from tkernel_plugins.templates.reply_parser import parse_reply
from tkernel_plugins.templates.slots import CONTENT, EOS, Slots, Token
from tkernel_plugins.templates.special_tokens import add_stop_words
from tkernel_plugins.templates.tool_formats import TOOL_FORMATS, ToolFormat
from tkernel_plugins.templates.writer import Writer


@dataclass(frozen=True)
class Template:
    """One chat template, and the plugin that answers `render_template` with it.

    The slots of a prompt (`user`, `observation`) end with the text that opens the reply; those of a
    reply (`assistant`, `function`) end with its terminator.
    """

    Options: ClassVar[type[TemplateOptions]] = TemplateOptions

    name: str
    user: Slots = (CONTENT,)
    assistant: Slots = (CONTENT, EOS)
    system: Slots = (CONTENT,)
    prefix: Slots = ()
    """What opens a conversation, before the system prompt."""
    observation: Slots | None = None
    """Around the results of tools; None: as for a user."""
    function: Slots | None = None
    """Around calls; None: as for a reply."""
    tool_format: str | ToolFormat = "default"
    """How tools and calls are written: a key of `TOOL_FORMATS`, or a format of the template's own."""
    strip_tools: bool = False
    """Line breaks that tools begin with are left out where no system prompt stands before them."""
    text_before_calls: bool = True
    """A reply may say something, a thought for instance, before its calls. False for models whose format has
    no place for that: such a reply is a `DataError`, as in LLaMA-Factory."""
    result_separator: str = "\n</tool_response>\n<tool_response>\n"
    """Between the results of several calls in one prompt (LLaMA-Factory's, whatever the format)."""
    default_system: str = ""
    system_in_user: bool = False
    """The system prompt is written at the start of the first user message's content (Llama 2)."""
    stop_words: tuple[str, ...] = ()
    """Made special tokens of the tokenizer, which learns those that it lacks."""
    replace_eos: bool = False
    """The first stop word becomes the tokenizer's end-of-sequence token."""
    efficient_eos: bool = False
    """Replies have no terminator of their own; see `SegmentRenderer`."""
    end_of_text: str | None = None
    """What follows a document in training on text; None: the tokenizer's end-of-sequence token."""
    reasoning: bool = False
    """A reasoning model's: thoughts of earlier replies are left out of prompts, and where a reply has
    none, an empty one is written (`enable_thinking`)."""
    thought_words: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    empty_thought: str | None = None
    """What an empty thought looks like; None: the two `thought_words`."""
    media: str | None = None
    """The media processor that goes with the template unless the model names another."""

    @property
    def contract(self) -> Mapping[str, Any]:
        """What the contract suite of templates cannot know: the tokens that this one writes by name, and
        what stands around its replies."""
        from tkernel.testing.tiny import SPECIAL_TOKENS

        slots = (*self.prefix, *self.system, *self.user, *(self.observation or ()))
        named = (slot.text for slot in slots if isinstance(slot, Token))
        eos = self.stop_words[0] if self.replace_eos else "<|im_end|>"
        written = "".join(slot if isinstance(slot, str) else eos for slot in self.assistant)
        before, _, after = written.partition(CONTENT)
        thought = re.escape(self.no_thought) if self.reasoning else ""
        return {
            "special_tokens": tuple(dict.fromkeys((*SPECIAL_TOKENS, *named))),
            "efficient_eos": self.efficient_eos,
            "masked_ends": self.efficient_eos,
            "reply_prefix": thought + re.escape(before),
            "terminator": re.escape(after + eos if self.efficient_eos else after),
            "markup": ("<think>", "</think>", *(word.strip() for word in self.thought_words)),
        }

    @property
    def no_thought(self) -> str:
        """What is written where a reply has no thought."""
        return "".join(self.thought_words) if self.empty_thought is None else self.empty_thought

    @hookimpl
    def render_template(self, request: TemplateRequest) -> SegmentRenderer:
        return self.renderer(request.tokenizer, request.options or TemplateOptions())

    def renderer(self, tokenizer: Any, options: TemplateOptions | None = None) -> SegmentRenderer:
        """The renderer for `tokenizer`, to which missing stop words are added.

        Raises:
            TkError: `options.tool_format` names no tool format.
        """
        options = options or TemplateOptions()
        tools = self.tool_format if options.tool_format is None else options.tool_format
        if isinstance(tools, str):
            tools = _tool_format(tools)
        function = self.assistant if self.function is None else self.function
        if options.tool_format is not None:
            function = (CONTENT,) if self.efficient_eos else (CONTENT, EOS)
        added = add_stop_words(tokenizer, self.stop_words, self.replace_eos)
        writer = Writer(
            prefix=self.prefix,
            system=self.system,
            user=self.user,
            observation=self.user if self.observation is None else self.observation,
            assistant=self.assistant,
            function=function,
            tools=tools,
            strip_tools=self.strip_tools,
            text_before_calls=self.text_before_calls,
            result_separator=self.result_separator,
            system_in_user=self.system_in_user,
            reasoning=self.reasoning,
            thought_words=self.thought_words,
            empty_thought=self.no_thought,
            default_system=self.default_system if options.default_system is None else options.default_system,
            enable_thinking=options.enable_thinking,
            preserve_thinking=options.preserve_thinking,
            bos=tokenizer.bos_token,
            eos=tokenizer.eos_token,
        )
        return SegmentRenderer(
            self.name,
            tokenizer,
            writer.every_turn,
            last_turns_of=writer.last_turn,
            stop_words=writer.terminators(self.stop_words),
            added_tokens=added,
            efficient_eos=self.efficient_eos,
            masked_ends=True,
            end_of_text=self.end_of_text,
            parse=partial(parse_reply, writer),
            jinja=partial(chat_template, writer),
        )


def _tool_format(name: str) -> ToolFormat:
    if name not in TOOL_FORMATS:
        raise TkError(
            f"there is no tool format {name!r}", hint=f"`tool_format` is one of: {', '.join(TOOL_FORMATS)}."
        )
    return TOOL_FORMATS[name]
