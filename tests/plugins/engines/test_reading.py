"""Prompts are read a piece at a time: streams go on meanwhile, and no reply is another one for it."""

from __future__ import annotations

import itertools
import threading

import pytest
from test_huggingface_engine import GREEDY, ask, start, until

from tkernel.testing import tiny
from tkernel.types.engine import Sampling
from tkernel_plugins.engines import worker


def test_a_long_prompt_is_read_between_the_tokens_of_a_stream_that_runs(monkeypatch):
    monkeypatch.setattr(worker, "PIECE", 64)
    bundle = tiny.make_bundle()
    widths: list[int] = []
    bundle.module.register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    engine = start(bundle)
    running = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=400))
    next(running)
    before = len(widths)
    long = ask("word " * 60)
    length = len(engine.renderer.prompt_ids(long))
    reply = engine.reply([long], GREEDY)[0]
    running.close()
    pieces = [width for width in widths[before:] if width > 1]
    assert sum(pieces) == length
    assert max(pieces) <= 64
    first, last = widths.index(pieces[0], before), before + len(widths[before:]) - 1
    between = widths[first:last]
    assert not any(one > 1 and other > 1 for one, other in itertools.pairwise(between))
    assert reply == start().reply([long], GREEDY)[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mistral"])
def test_prompts_of_any_length_that_are_read_in_pieces_give_the_replies_of_each_alone(monkeypatch, family):
    conversations = [ask("word " * n) for n in (1, 30, 2, 55, 7)]
    alone = [start(tiny.make_bundle(family)).reply([c], GREEDY)[0].token_ids for c in conversations]
    monkeypatch.setattr(worker, "PIECE", 40)
    engine = start(tiny.make_bundle(family))
    running = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=400))
    next(running)
    together = engine.reply(conversations, GREEDY)
    running.close()
    assert [reply.token_ids for reply in together] == alone


def test_a_request_that_is_cancelled_while_its_prompt_is_read_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(worker, "PIECE", 1)
    engine = start()
    running = engine.stream([ask("Hi")], Sampling(do_sample=False, max_new_tokens=400))
    next(running)
    stopped = engine.stream([ask("word " * 60)], GREEDY)
    thread = threading.Thread(target=lambda: list(stopped))
    thread.start()
    until(lambda: engine._worker._joining)
    stopped.close()
    thread.join()
    assert engine._worker._joining == []
    assert engine.reply([ask("Hi")], GREEDY) == start().reply([ask("Hi")], GREEDY)
    running.close()
