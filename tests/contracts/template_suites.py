"""The suite of each named template: what stands around its replies, told to the contract."""

from __future__ import annotations

import functools
import re

from tkernel.index import read_index
from tkernel.testing import TemplateContract, tiny
from tkernel.testing.contract import find_plugin
from tkernel_plugins.templates.slots import CONTENT, EOS, Token

NAMED = [e.name for e in read_index().entries if e.kind == "template" and e.distribution == "tkernel"]
NAMED.remove("auto")


@functools.cache
def suite(name: str) -> type[TemplateContract]:
    """The contract of a template, with a tokenizer that has the tokens it writes by name."""
    template = find_plugin("template", name).object
    slots = (*template.prefix, *template.system, *template.user, *(template.observation or ()))
    named = tuple(slot.text for slot in slots if isinstance(slot, Token))
    eos = template.stop_words[0] if template.replace_eos else "<|im_end|>"
    written = "".join(eos if slot is EOS else slot for slot in template.assistant)
    before, _, after = written.partition(CONTENT)
    empty = "".join(template.thought_words) if template.empty_thought is None else template.empty_thought
    facts = {
        "plugin": name,
        "special_tokens": tuple(dict.fromkeys((*tiny.SPECIAL_TOKENS, *named))),
        "efficient_eos": template.efficient_eos,
        "reply_prefix": re.escape(empty) + re.escape(before) if template.reasoning else re.escape(before),
        "terminator": re.escape(after + eos if template.efficient_eos else after),
        "markup": ("<think>", "</think>", *(word.strip() for word in template.thought_words)),
    }
    return type("Suite", (TemplateContract,), facts)
