"""Engine `huggingface` beyond its contract: batches, limits, beams, errors."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tkernel.errors import DataError, TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.engine_runs import reference, scripted_bundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Prompt, RequestSampling, Sampling
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


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


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
    until(lambda: "tk-generate" not in {thread.name for thread in threading.enumerate()})


def test_closing_a_stream_leaves_no_thread_behind():
    stream = start(scripted_bundle("ab", endless=True)).stream([ask("Hi")], Sampling(max_new_tokens=400))
    next(stream)
    stream.close()
    until(lambda: "tk-generate" not in {thread.name for thread in threading.enumerate()})


def test_a_closed_engine_says_so():
    engine = start()
    engine.close()
    with pytest.raises(TkError, match="closed"):
        engine.reply([ask("Hi")], GREEDY)


def test_without_a_model_in_memory_the_error_names_the_way_to_get_one():
    with pytest.raises(TkError, match="open_engine"):
        ENGINE.generate(EngineRequest())


def test_a_request_that_arrives_later_joins_the_batch_that_runs():
    """It is answered while the first one goes on, and both say what they say alone."""
    bundle = scripted_bundle("ab", endless=True)
    engine = start(bundle, max_batch=4)
    sizes = []
    bundle.module.register_forward_pre_hook(
        lambda _, __, given: sizes.append(len(given["input_ids"])), with_kwargs=True
    )
    long = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=300))
    next(long)
    short = engine.reply([ask("Hello there, who are you?")], GREEDY)[0]
    assert 2 in sizes
    assert (short.text, short.finish_reason) == ("abababab", "length")
    assert "a" + "".join(delta.text for delta in long) == "ab" * 150


def test_rows_of_any_length_join_and_leave_without_changing_a_reply():
    """Sixty requests from eight threads on four places, each as long as it likes."""
    engine = start(max_batch=4)
    asked = [
        (ask("word " * (n % 13)), Sampling(do_sample=False, max_new_tokens=1 + n % 9)) for n in range(60)
    ]
    alone = [engine.reply([conversation], sampling)[0] for conversation, sampling in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda pair: engine.reply([pair[0]], pair[1])[0], asked)) == alone


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_a_sliding_window_is_held_where_rows_join(family):
    bundle = tiny.make_bundle(family, sliding_window=8)
    engine = start(bundle, max_batch=3)
    asked = [ask("word " * n) for n in (1, 9, 4, 20, 2)]
    expected = [reference(bundle, conversation, 8) for conversation in asked]
    assert [list(reply.token_ids) for reply in engine.reply(asked, GREEDY)] == expected


def test_models_whose_rows_cannot_join_say_the_same_by_transformers_own_loop():
    engine, other = start(), start()
    other._worker.forward.joinable = False
    sampling = RequestSampling(
        temperature=1.2, top_p=0.9, max_new_tokens=8, n=2, seed=3, logprobs=2, stop=("q",)
    )
    for asked in (GREEDY, sampling):
        one, two = (e.reply([ask("Hi"), ask("Who runs the inn?")], asked) for e in (engine, other))
        assert [reply.token_ids for reply in one] == [reply.token_ids for reply in two]
        assert [reply.text for reply in one] == [reply.text for reply in two]
        pairs = [
            pair
            for left, right in zip(one, two, strict=True)
            for pair in zip(left.logprobs, right.logprobs, strict=True)
        ]
        assert all(abs(left.logprob - right.logprob) < 1e-4 for left, right in pairs)


def test_a_cancelled_request_leaves_its_place_to_one_that_waits():
    engine = start(scripted_bundle("ab", endless=True), max_batch=1)
    stream = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=490))
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(engine.reply, [ask("Hi")], GREEDY)
        stream.close()
        assert waiting.result(60)[0].text == "abababab"


def test_cancelling_ends_transformers_own_loop_too():
    engine = start(scripted_bundle("ab", endless=True))
    engine._worker.forward.joinable = False
    stream = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=490))
    next(stream)
    stream.close()
    assert engine.reply([ask("Hi")], GREEDY)[0].text == "abababab"


def test_one_prompt_is_read_once_for_all_of_its_replies():
    bundle = tiny.make_bundle()
    rows = []
    bundle.module.register_forward_pre_hook(
        lambda _, __, given: rows.append(given["input_ids"].shape), with_kwargs=True
    )
    start(bundle).reply([ask("Hi")], Sampling(max_new_tokens=4, n=5))
    assert rows[0][0] == 1
    assert rows[1] == (5, 1)


def test_closing_the_engine_ends_what_runs_with_an_error():
    engine = start(scripted_bundle("ab", endless=True))
    stream = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=490))
    next(stream)
    engine.close()
    with pytest.raises(TkError, match="closed while"):
        list(stream)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two LoRA adapters of the tiny model, and what it says with each merged."""
    from peft import LoraConfig, get_peft_model

    folder, said = tmp_path_factory.mktemp("adapters"), {}
    for number, name in enumerate(("one", "two")):
        bundle = tiny.make_bundle()
        module = get_peft_model(bundle.module, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
        for key, weight in module.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=1.0, generator=torch.Generator().manual_seed(number))
        module.save_pretrained(folder / name)
        merged = module.merge_and_unload()
        said[name] = reference(bundle.replace(module=merged), ask("Hi"), 8)
    return folder, said


def test_adapters_are_switched_by_request_and_equal_the_merged_model(adapters):
    folder, said = adapters
    bundle = tiny.make_bundle()
    before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
    expected = {None: reference(bundle, ask("Hi"), 8), **said}
    engine = start(bundle)
    engine.load_adapter("one", folder / "one")
    engine.load_adapter("two", folder / "two")
    assert engine.adapters == ("one", "two")
    names = [None, "one", "two"] * 4
    with ThreadPoolExecutor(6) as pool:
        replies = pool.map(
            lambda name: engine.reply(
                [ask("Hi")], RequestSampling(do_sample=False, max_new_tokens=8, adapter=name)
            )[0],
            names,
        )
        assert [list(reply.token_ids) for reply in replies] == [expected[name] for name in names]
    engine.unload_adapter("one")
    with pytest.raises(DataError, match="there are: two"):
        engine.reply([ask("Hi")], RequestSampling(adapter="one"))
    engine.close()
    after = bundle.module.state_dict()
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_a_folder_that_is_no_adapter_is_refused_and_the_engine_goes_on(tmp_path):
    engine = start()
    with pytest.raises(TkError):
        engine.load_adapter("none", tmp_path)
    assert len(engine.reply([ask("Hi")], GREEDY)) == 1


@pytest.mark.parametrize("draws", [True, False])
def test_a_schema_is_held_by_every_reply(draws):
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["a", "b"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["name", "n"],
        "additionalProperties": False,
    }
    sampling = RequestSampling(
        do_sample=draws, temperature=1.5, top_p=1.0, max_new_tokens=60, grammar=json.dumps(schema), n=4
    )
    for reply in start().reply([ask("Hi")], sampling):
        made = json.loads(reply.text)
        assert made["name"] in ("a", "b")
        assert 0 <= made["n"] <= 9


def test_a_schema_that_cannot_be_held_is_an_error_of_the_request():
    with pytest.raises(DataError, match="schema"):
        start().reply([ask("Hi")], RequestSampling(grammar='{"type": "nonsense"}'))


def test_embeddings_are_the_mean_of_the_last_states_of_length_one():
    bundle = tiny.make_bundle()
    ((vector, count),) = start(bundle).embed(["Who runs the inn?"])
    ids = bundle.tokenizer("Who runs the inn?", return_tensors="pt").input_ids
    with torch.no_grad():
        mean = bundle.module.model(ids).last_hidden_state[0].mean(0)
    assert count == ids.shape[1]
    assert torch.allclose(torch.tensor(vector), mean / mean.norm(), atol=1e-5)


def test_rewards_are_the_values_of_the_last_tokens():
    from tkernel_plugins.training import value_head

    bundle = tiny.make_bundle()
    value_head.attach(bundle.module, seed=1)
    engine = start(bundle)
    talk = Conversation((Message("user", "Hi"), Message("assistant", "Hello")))
    scores = engine.score([talk, Prompt("Hello")])
    ids = chatml_renderer(bundle.tokenizer).encode([talk])[0].input_ids
    with torch.no_grad():
        expected = value_head.last_values(bundle.module, {"input_ids": torch.tensor([ids])})
    assert scores[0] == pytest.approx(float(expected[0]), abs=1e-5)
    assert scores[0] != scores[1]


@settings(max_examples=80)
@given(st.text(max_size=30))
def test_pieces_of_any_text_join_to_it_and_are_whole_characters(text):
    decoder = IncrementalText(TOKENIZER)
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    pieces = [decoder.add(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == text
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(pieces)


@settings(max_examples=80)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=30))
def test_pieces_of_any_ids_join_to_what_the_tokenizer_decodes(ids):
    decoder = IncrementalText(TOKENIZER)
    assert "".join(map(decoder.add, ids)) + decoder.finish() == TOKENIZER.decode(
        ids, skip_special_tokens=True
    )
