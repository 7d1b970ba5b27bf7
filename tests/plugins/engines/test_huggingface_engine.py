"""Engine `huggingface` beyond its contract: batches, limits, beams, errors."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.engines import scripted_bundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Sampling
from tkernel.types.requests import EngineRequest
from tkernel_plugins.engines.huggingface import ENGINE, Options
from tkernel_plugins.engines.incremental_text import IncrementalText

GREEDY = Sampling(do_sample=False, max_new_tokens=8)
TOKENIZER = tiny.make_tokenizer()


def start(bundle=None, **options):
    bundle = bundle or tiny.make_bundle()
    return ENGINE.generate(
        EngineRequest(renderer=chatml_renderer(bundle.tokenizer), bundle=bundle, options=Options(**options))
    )


def ask(text):
    return Conversation((Message("user", text),))


def test_more_conversations_than_a_batch_give_the_replies_of_each_alone():
    engine = start()
    conversations = [ask("word " * n) for n in range(1, 20)]
    together = engine.reply(conversations, GREEDY)
    assert [r.token_ids for r in together] == [engine.reply([c], GREEDY)[0].token_ids for c in conversations]


def test_temperature_zero_is_greedy():
    engine = start()
    drawn = engine.reply([ask("Hi")], Sampling(temperature=0.0, max_new_tokens=8))
    assert drawn == engine.reply([ask("Hi")], GREEDY)


def test_the_global_random_state_is_not_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    start().reply([ask("Hi")], Sampling(max_new_tokens=4))
    assert torch.equal(before, torch.get_rng_state())


def test_without_max_new_tokens_the_limit_is_on_prompt_and_reply_together():
    bundle = scripted_bundle("ab", endless=True)
    prompt = len(chatml_renderer(bundle.tokenizer).prompt_ids(ask("Hi")))
    engine = start(bundle, do_sample=False, max_new_tokens=0, max_length=prompt + 5)
    reply = engine.reply([ask("Hi")])[0]
    assert (len(reply.token_ids), reply.finish_reason) == (5, "length")


def test_each_reply_of_a_batch_has_its_own_room():
    bundle = scripted_bundle("ab", endless=True)
    renderer = chatml_renderer(bundle.tokenizer)
    short, long = ask("Hi"), ask("Hi, how are you?")
    engine = start(bundle, do_sample=False, max_new_tokens=0, max_length=len(renderer.prompt_ids(long)) + 3)
    replies = engine.reply([short, long])
    difference = len(renderer.prompt_ids(long)) - len(renderer.prompt_ids(short))
    assert [len(reply.token_ids) for reply in replies] == [3 + difference, 3]


def test_a_prompt_that_fills_the_context_is_an_error_that_says_what_to_do():
    with pytest.raises(TkError, match=r"the model's context is 512(.|\n)*`/clear`"):
        start().reply([ask("word " * 300)], GREEDY)


def test_a_reply_ends_where_the_context_does():
    bundle = scripted_bundle("ab", endless=True)
    prompt = len(chatml_renderer(bundle.tokenizer).prompt_ids(ask("Hi")))
    reply = start(bundle).reply([ask("Hi")], Sampling(do_sample=False, max_new_tokens=10_000))[0]
    assert prompt + len(reply.token_ids) == 512


def test_beams_give_whole_replies():
    bundle = scripted_bundle("oé!")
    reply = start(bundle).reply(
        [ask("Hi"), ask("Hi!")], Sampling(do_sample=False, num_beams=2, max_new_tokens=12)
    )
    assert [r.text for r in reply] == ["oé!", "oé!"]
    assert [r.finish_reason for r in reply] == ["stop", "stop"]


def test_an_error_of_the_model_reaches_the_caller_and_leaves_no_thread_behind():
    bundle = tiny.make_bundle()
    bundle.module.lm_head.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(bundle).reply([ask("Hi")], GREEDY)
    assert "tk-generate" not in {thread.name for thread in threading.enumerate()}


def test_closing_a_stream_leaves_no_thread_behind():
    stream = start(scripted_bundle("ab", endless=True)).stream([ask("Hi")], Sampling(max_new_tokens=400))
    next(stream)
    stream.close()
    assert "tk-generate" not in {thread.name for thread in threading.enumerate()}


def test_a_closed_engine_says_so():
    engine = start()
    engine.close()
    with pytest.raises(TkError, match="closed"):
        engine.reply([ask("Hi")], GREEDY)


def test_without_a_model_in_memory_the_error_names_the_way_to_get_one():
    with pytest.raises(TkError, match="open_engine"):
        ENGINE.generate(EngineRequest())


@settings(deadline=None, max_examples=80)
@given(st.text(max_size=30))
def test_pieces_of_any_text_join_to_it_and_are_whole_characters(text):
    decoder = IncrementalText(TOKENIZER)
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    pieces = [decoder.add(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == text
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_pieces_of_any_ids_join_to_what_the_tokenizer_decodes(ids):
    decoder = IncrementalText(TOKENIZER)
    assert "".join(map(decoder.add, ids)) + decoder.finish() == TOKENIZER.decode(
        ids, skip_special_tokens=True
    )
