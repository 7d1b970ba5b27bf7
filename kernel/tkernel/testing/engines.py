"""The contract of engine plugins (`generate`)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.engine_runs import GREEDY, QUESTIONS, EngineRuns, asking, continued, reference
from tkernel.types.engine import Delta, Prompt, RequestSampling, Sampling
from tkernel.types.requests import EngineRequest

SCRIPT = "oé😀!"
"""What the scripted model says: characters of one, two and four tokens."""


class EngineContract(EngineRuns):
    """Decoding, streaming and stopping of an engine, on a tiny model in fp32.

    An engine without the capability `bundle` gets a tokenizer and the path of the saved model. One that talks to a
    server overrides `options_for`, starts the server there, and says where it is.
    """

    def test_greedy_equals_the_reference_loop(self) -> None:
        """Token by token: the argmax of a full forward pass over all ids so far, without any cache."""
        bundle = self.bundle()
        engine = self.engine(bundle)
        for question in QUESTIONS:
            reply = engine.reply([asking(question)], GREEDY)[0]
            self.check_ids(bundle, reply, reference(bundle, asking(question), GREEDY.max_new_tokens))
        engine.close()

    def test_batched_equals_single(self) -> None:
        """Replies do not depend on what else is in the batch."""
        engine = self.engine()
        together = engine.reply([asking(question) for question in QUESTIONS], GREEDY)
        alone = [engine.reply([asking(question)], GREEDY)[0] for question in QUESTIONS]
        engine.close()
        assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]
        assert [reply.text for reply in together] == [reply.text for reply in alone]

    def test_streams_concatenate_to_the_replies(self) -> None:
        """The pieces of each index, joined, are its reply: text, ids and the reason of its end."""
        engine = self.engine()
        conversations = [asking(question) for question in QUESTIONS]
        deltas = list(engine.stream(conversations, GREEDY))
        replies = engine.reply(conversations, GREEDY)
        engine.close()
        for index, reply in enumerate(replies):
            mine = [delta for delta in deltas if delta.index == index]
            assert "".join(delta.text for delta in mine) == reply.text
            assert tuple(itertools.chain(*(delta.token_ids for delta in mine))) == reply.token_ids
            assert [delta.finish_reason for delta in mine] == [None] * (len(mine) - 1) + [reply.finish_reason]

    def test_a_reply_is_streamed_piece_by_piece(self) -> None:
        """The first piece comes before the reply is finished."""
        engine = self.engine(self.scripted("ab", endless=True))
        # Long: a server may put into one piece what is made while the one before is on its way.
        sampling = replace(GREEDY, max_new_tokens=100)
        deltas = [delta for delta in engine.stream([asking("Hi")], sampling) if delta.text]
        engine.close()
        assert len(deltas) > 1

    def test_pieces_are_whole_characters(self) -> None:
        """A character of many tokens is held back until it is complete."""
        engine = self.engine(self.scripted(SCRIPT))
        deltas = list(engine.stream([asking("Hi")], GREEDY))
        engine.close()
        assert "".join(delta.text for delta in deltas) == SCRIPT
        assert all("\ufffd" not in delta.text for delta in deltas)

    def test_a_stop_id_ends_the_reply(self) -> None:
        """The reply ends at the template's stop token, which is in the ids and not in the text."""
        bundle = self.scripted(SCRIPT)
        engine = self.engine(bundle)
        reply = engine.reply([asking("Hi")], GREEDY)[0]
        engine.close()
        assert reply.finish_reason == "stop"
        assert reply.text == SCRIPT
        if "token_ids" not in self.cannot:
            assert reply.token_ids[-1] == chatml_renderer(bundle.tokenizer).stop_ids[0]

    def test_a_reply_has_at_most_max_new_tokens(self) -> None:
        """A reply that does not stop by itself ends after exactly `max_new_tokens`, for `length`."""
        engine = self.engine(self.scripted("ab", endless=True))
        for count in (1, 7):
            reply = engine.reply([asking("Hi")], replace(GREEDY, max_new_tokens=count))[0]
            assert len(reply.token_ids) == count
            assert reply.finish_reason == "length"
            assert reply.text == "".join(itertools.islice(itertools.cycle("ab"), count))
        engine.close()

    def test_the_message_is_what_the_template_parses(self) -> None:
        """`message` is the renderer's reading of the text."""
        bundle = self.scripted(SCRIPT)
        engine = self.engine(bundle)
        reply = engine.reply([asking("Hi")], GREEDY)[0]
        engine.close()
        assert reply.message == chatml_renderer(bundle.tokenizer).parse_reply(reply.text)

    def test_the_seed_decides_what_is_drawn(self) -> None:
        """Sampling with one seed gives one reply, whatever the global generator's state; another seed,
        another one."""
        import torch

        sampling = Sampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=24)
        drawn = []
        for state, seed in ((1, 5), (2, 5), (2, 6)):
            torch.manual_seed(state)
            engine = self.engine(seed=seed)
            drawn.append(engine.reply([asking("Hi")], sampling)[0].token_ids)
            engine.close()
        assert drawn[0] == drawn[1]
        assert drawn[0] != drawn[2]

    def test_a_seed_decides_a_reply_whatever_else_is_asked(self) -> None:
        """A request with a seed gives the same reply in any engine, at any time."""
        sampling = RequestSampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=12, seed=7)
        engine = self.engine(seed=5)
        first = engine.reply([asking("Hi")], sampling)[0]
        engine.reply([asking("Hi")], replace(sampling, seed=None))
        again = engine.reply([asking("Hi")], sampling)[0]
        other = engine.reply([asking("Hi")], replace(sampling, seed=8))[0]
        engine.close()
        assert first.token_ids == again.token_ids
        assert first.token_ids != other.token_ids

    def test_n_replies_to_each_conversation_come_in_order(self) -> None:
        """Replies `c * n` to `c * n + n - 1` are those to conversation `c`, and each is drawn on its own."""
        engine = self.engine()
        conversations = [asking(question) for question in QUESTIONS]
        replies = engine.reply(conversations, replace(GREEDY, n=2))
        expected = [reply.token_ids for reply in engine.reply(conversations, GREEDY) for _ in range(2)]
        drawn = engine.reply(
            conversations[:1], Sampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=24, n=2)
        )
        engine.close()
        assert [reply.token_ids for reply in replies] == expected
        assert drawn[0].token_ids != drawn[1].token_ids

    def test_a_stop_text_ends_the_reply(self) -> None:
        """The reply ends before the first stop text, for `stop`; nothing of a stop text is ever streamed."""
        engine = self.engine(self.scripted(SCRIPT))
        for stop, text in ((("😀!", "x"), "oé"), (("é😀",), "o"), (("!o",), SCRIPT)):
            deltas = list(engine.stream([asking("Hi")], replace(GREEDY, stop=stop)))
            assert "".join(delta.text for delta in deltas) == text
            assert deltas[-1].finish_reason == "stop"
        engine.close()

    def test_log_probabilities_equal_teacher_forcing(self) -> None:
        """Those of a forward pass over prompt and reply, before temperature and filters."""
        for reply, expected in self.with_logprobs(0):
            assert [given.token_id for given in reply.logprobs] == list(reply.token_ids)
            for row, given in zip(expected, reply.logprobs, strict=True):
                assert abs(given.logprob - float(row[given.token_id])) < 1e-3

    def test_the_most_likely_tokens_are_given(self) -> None:
        """As many as `logprobs` says, best first, with their log-probabilities."""
        for reply, expected in self.with_logprobs(2):
            for row, given in zip(expected, reply.logprobs, strict=True):
                assert [token for token, _ in given.top] == row.topk(2).indices.tolist()
                assert abs(given.top[0][1] - float(row.max())) < 1e-3

    def test_a_prompt_is_continued_without_a_template(self) -> None:
        """`Prompt` gives ids, or text, that the model goes on from."""
        bundle = self.bundle()
        engine = self.engine(bundle)
        ids = bundle.tokenizer("Who runs the inn").input_ids
        expected = continued(bundle, ids, GREEDY.max_new_tokens)
        for prompt in (Prompt("Who runs the inn"), Prompt(ids=tuple(ids))):
            self.check_ids(bundle, engine.reply([prompt], GREEDY)[0], expected)
        engine.close()

    def test_callers_at_the_same_time_get_their_own_replies(self) -> None:
        """Four threads that ask at once are answered as if each were alone."""
        from concurrent.futures import ThreadPoolExecutor

        engine = self.engine()
        asked = [*QUESTIONS, "Hello there"]
        alone = [engine.reply([asking(question)], GREEDY)[0].token_ids for question in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            replies = list(pool.map(lambda question: engine.reply([asking(question)], GREEDY)[0], asked))
        engine.close()
        assert [reply.token_ids for reply in replies] == alone

    def test_a_grammar_is_held_or_refused(self) -> None:
        """A reply after a JSON schema is valid, or the engine raises a TkError at once."""
        import json

        engine = self.engine()
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
        sampling = RequestSampling(
            temperature=1.0, max_new_tokens=64, grammar=json.dumps({**schema, "additionalProperties": False})
        )
        try:
            reply = engine.reply([asking("Hi")], sampling)[0]
        except TkError:
            return
        finally:
            engine.close()
        assert json.loads(reply.text) in ({"ok": True}, {"ok": False})

    def test_sampling_follows_its_filters(self) -> None:
        """Where only the best token is left by `top_k` or `top_p`, or by a temperature near 0, sampling is greedy."""
        engine = self.engine()
        conversations = [asking(question) for question in QUESTIONS]
        expected = [reply.token_ids for reply in engine.reply(conversations, GREEDY)]
        plain = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=GREEDY.max_new_tokens)
        for filtered in (
            replace(plain, top_k=1),
            replace(plain, top_p=1e-6),
            replace(plain, temperature=1e-4),
        ):
            assert [reply.token_ids for reply in engine.reply(conversations, filtered)] == expected
        engine.close()

    def test_repetition_is_penalised(self) -> None:
        """`repetition_penalty` divides the positive and multiplies the negative logits of every token
        of prompt and reply so far (Keskar et al., arXiv:1909.05858)."""
        bundle = self.bundle()
        engine = self.engine(bundle)
        for question in QUESTIONS:
            reply = engine.reply([asking(question)], replace(GREEDY, repetition_penalty=1.5))[0]
            expected = reference(bundle, asking(question), GREEDY.max_new_tokens, penalty=1.5)
            self.check_ids(bundle, reply, expected)
        engine.close()

    def test_without_sampling_the_options_of_the_run_hold(self) -> None:
        """`sampling=None` means the options that the engine was started with."""
        options = self.default_options
        engine = self.engine(self.scripted("ab", endless=True), **options)
        reply = engine.reply([asking("Hi")])[0]
        engine.close()
        assert len(reply.token_ids) == options["max_new_tokens"]

    def test_closing_the_iterator_stops_the_work(self) -> None:
        """After the first piece and `close()`, most of the forward passes never happen."""
        import time

        self.skip_without_a_module()
        bundle = self.scripted("ab", endless=True)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1
            # A thread that runs ahead of its reader would otherwise be done before the reader closes.
            time.sleep(0.005)

        bundle.module.register_forward_pre_hook(count)
        engine = self.engine(bundle)
        stream = engine.stream([asking("Hi")], replace(GREEDY, max_new_tokens=200))
        first: Delta = next(iter(stream))
        stream.close()  # type: ignore[attr-defined]
        time.sleep(0.1)
        after_closing = passes
        time.sleep(0.1)
        assert passes == after_closing
        engine.close()
        assert first.index == 0
        assert passes < 100

    def test_closing_the_iterator_frees_its_places(self) -> None:
        """After the first piece and `close()`, no reply is made any more, long before they would have ended."""
        import time

        import pytest

        engine = self.engine(self.scripted("ab", endless=True))
        if self.places(engine) is None:
            engine.close()
            pytest.skip("nothing tells how many replies this engine is making")
        asked, sampling = [asking("Hi")] * 8, replace(GREEDY, max_new_tokens=self.long)
        start = time.monotonic()
        for _ in engine.stream(asked, sampling):
            pass
        whole = time.monotonic() - start
        stream = engine.stream(asked, sampling)
        next(iter(stream))
        start = time.monotonic()
        while not (taken := self.places(engine)) and time.monotonic() - start < whole / 4:
            time.sleep(whole / 100)  # a server may count a little later than it replies
        assert taken
        stream.close()  # type: ignore[attr-defined]
        start = time.monotonic()
        while self.places(engine) and time.monotonic() - start < whole / 2:
            time.sleep(whole / 100)
        assert self.places(engine) == 0
        engine.close()

    def test_the_module_is_left_as_it_was(self) -> None:
        """Weights, dtype and train mode are the same after generating as before."""
        self.skip_without_a_module()
        bundle = self.bundle()
        bundle.module.train()
        before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
        engine = self.engine(bundle)
        engine.reply([asking("Hi")], GREEDY)
        engine.close()
        after = bundle.module.state_dict()
        assert [name for name in before if not before[name].equal(after[name])] == []
        assert bundle.module.training

    def test_an_engine_can_be_used_again_and_closed_twice(self) -> None:
        """A second call gives the same replies; closing twice is no error."""
        engine = self.engine()
        first, second = (engine.reply([asking("Hi")], GREEDY) for _ in range(2))
        engine.close()
        engine.close()
        assert first == second

    def test_a_model_on_disk_says_the_same_or_is_refused(self, tmp_path: Path) -> None:
        """With the facts of a folder in place of a bundle, the engine loads it, or raises a TkError."""
        bundle = self.bundle()
        facts = tiny.save_model(tmp_path)
        renderer = chatml_renderer(bundle.tokenizer)
        try:
            engine = self.provider.generate(
                EngineRequest(renderer, facts=facts, options=self.bound_options())
            )
        except TkError:
            return
        reply = engine.reply([asking("Hi")], GREEDY)[0]
        engine.close()
        self.check_ids(bundle, reply, reference(bundle, asking("Hi"), GREEDY.max_new_tokens))

    def test_no_conversations_no_replies(self) -> None:
        """An empty batch gives an empty list."""
        engine = self.engine()
        assert engine.reply([], GREEDY) == []
        engine.close()
