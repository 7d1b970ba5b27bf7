"""What holds for every conversation, on conversations that nobody thought of."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from template_suites import NAMED
from template_suites import suite as named_suite

from tkernel import Conversation, Message
from tkernel.testing import TemplateContract, tiny
from tkernel_plugins.data.truncation import truncate

TEMPLATES = ["auto", *NAMED]
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
SPECIAL = [token for token in tiny.SPECIAL_TOKENS if token not in MARKUP]

pieces = st.one_of(
    st.sampled_from(
        [*SPECIAL, "<|im_", "end|>", "\n", "\n\n", "  ", "12", "{{ x }}", "{% if %}", "é😀", "\u200d"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
)
contents = st.builds(lambda text: f"a{text}z", st.lists(pieces, max_size=5).map("".join))
turns = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)


@functools.cache
def suite(name: str) -> tuple[TemplateContract, object]:
    made = type("Suite", (TemplateContract,), {"plugin": name})() if name == "auto" else named_suite(name)()
    return made, made.renderer()


def conversation(system: str | None, said: list[tuple[str, str]]) -> Conversation:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in said:
        messages += [Message("user", question), Message("assistant", answer)]
    return Conversation(tuple(messages))


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(system=st.none() | contents, said=turns, cutoff=st.integers(1, 200))
def test_text_ids_labels_and_prompts_agree(name, system, said, cutoff):
    made, renderer = suite(name)
    asked = conversation(system, said)
    encoded, last = renderer.encode([asked])[0], renderer.encode([asked], mask_history=True)[0]
    prompt = renderer.prompt_ids(asked.replace(messages=asked.messages[:-1]))
    # The one token that ends a conversation where replies have no terminator is no part of its text.
    ids = encoded.input_ids[:-1] if renderer.efficient_eos else encoded.input_ids
    assert made.decode(ids) == renderer.text(asked)
    assert last.input_ids[: len(prompt)] == prompt
    assert last.labels[len(prompt) :] == last.input_ids[len(prompt) :]
    # Where the end of a masked reply is the first token after it, that token may be learned.
    ends = {made.tokenizer.eos_token_id} if made.masked_ends else set()
    assert set(last.labels[: len(prompt)]) <= {-100, *ends}
    (cut,) = truncate(encoded, cutoff, last_first=False, ends=renderer.efficient_eos)
    assert len(cut.input_ids) == len(cut.labels) <= cutoff
    assert len(cut.input_ids) + cut.dropped == len(encoded.input_ids)
    rest = iter(zip(encoded.input_ids, encoded.labels, strict=True))
    assert all(pair in rest for pair in zip(cut.input_ids, cut.labels, strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(system=st.none() | contents, said=turns)
def test_nothing_that_is_typed_becomes_a_special_token(name, system, said):
    made, renderer = suite(name)
    special = set(made.tokenizer.all_special_ids)
    plain = conversation(None if system is None else "x", [("x", "x")] * len(said))
    expected, found = (
        [token for token in renderer.encode([c])[0].input_ids if token in special]
        for c in (plain, conversation(system, said))
    )
    assert found == expected
