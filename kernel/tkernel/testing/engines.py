"""The contract of engine plugins (`generate`)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.contract import Contract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Delta, Engine, Prompt, RequestSampling, Sampling
from tkernel.types.requests import EngineRequest

GREEDY = Sampling(do_sample=False, max_new_tokens=10)
QUESTIONS = ("Hi", "Who runs the inn, and is it the user?", "How much is 12 and 12?\n\nSay it.")
SCRIPT = "oé😀!"
"""What the scripted model says: characters of one, two and four tokens."""


class EngineContract(Contract):
    """Decoding, streaming and stopping of an engine, on a tiny model in fp32."""

    kind = "engine"
    default_options: ClassVar[Mapping[str, Any]] = {"do_sample": False, "max_new_tokens": 5}
    """Options for a session whose own sampling is asked for."""

    def bundle(self) -> ModelBundle:
        """A fresh tiny model in eval mode."""
        return tiny.make_bundle()

    def engine(self, bundle: ModelBundle | None = None, *, seed: int = 42, **options: Any) -> Engine:
        """Call the hook with a bundle in memory."""
        bundle = bundle or self.bundle()
        request = EngineRequest(
            chatml_renderer(bundle.tokenizer),
            bundle,
            bundle.facts,
            options=self.bound_options(**options),
            seed=seed,
        )
        engine: Engine = self.provider.generate(request)
        return engine

    def test_greedy_equals_the_reference_loop(self) -> None:
        """Token by token: the argmax of a full forward pass over all ids so far, without any cache."""
        bundle = self.bundle()
        engine = self.engine(bundle)
        for question in QUESTIONS:
            reply = engine.reply([_asking(question)], GREEDY)[0]
            expected = _reference(bundle, _asking(question), GREEDY.max_new_tokens)
            assert list(reply.token_ids) == expected
        engine.close()

    def test_batched_equals_single(self) -> None:
        """Replies do not depend on what else is in the batch."""
        engine = self.engine()
        together = engine.reply([_asking(question) for question in QUESTIONS], GREEDY)
        alone = [engine.reply([_asking(question)], GREEDY)[0] for question in QUESTIONS]
        engine.close()
        assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]
        assert [reply.text for reply in together] == [reply.text for reply in alone]

    def test_streams_concatenate_to_the_replies(self) -> None:
        """The pieces of each index, joined, are its reply: text, ids and the reason of its end."""
        engine = self.engine()
        conversations = [_asking(question) for question in QUESTIONS]
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
        engine = self.engine(scripted_bundle(SCRIPT))
        deltas = [delta for delta in engine.stream([_asking("Hi")], GREEDY) if delta.text]
        engine.close()
        assert len(deltas) > 1

    def test_pieces_are_whole_characters(self) -> None:
        """A character of many tokens is held back until it is complete."""
        engine = self.engine(scripted_bundle(SCRIPT))
        deltas = list(engine.stream([_asking("Hi")], GREEDY))
        engine.close()
        assert "".join(delta.text for delta in deltas) == SCRIPT
        assert all("\ufffd" not in delta.text for delta in deltas)

    def test_a_stop_id_ends_the_reply(self) -> None:
        """The reply ends at the template's stop token, which is in the ids and not in the text."""
        bundle = scripted_bundle(SCRIPT)
        engine = self.engine(bundle)
        reply = engine.reply([_asking("Hi")], GREEDY)[0]
        engine.close()
        assert reply.finish_reason == "stop"
        assert reply.token_ids[-1] == chatml_renderer(bundle.tokenizer).stop_ids[0]
        assert reply.text == SCRIPT

    def test_a_reply_has_at_most_max_new_tokens(self) -> None:
        """A reply that does not stop by itself ends after exactly `max_new_tokens`, for `length`."""
        engine = self.engine(scripted_bundle("ab", endless=True))
        for count in (1, 7):
            reply = engine.reply([_asking("Hi")], replace(GREEDY, max_new_tokens=count))[0]
            assert len(reply.token_ids) == count
            assert reply.finish_reason == "length"
            assert reply.text == "".join(itertools.islice(itertools.cycle("ab"), count))
        engine.close()

    def test_the_message_is_what_the_template_parses(self) -> None:
        """`message` is the renderer's reading of the text."""
        bundle = scripted_bundle(SCRIPT)
        engine = self.engine(bundle)
        reply = engine.reply([_asking("Hi")], GREEDY)[0]
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
            drawn.append(engine.reply([_asking("Hi")], sampling)[0].token_ids)
            engine.close()
        assert drawn[0] == drawn[1]
        assert drawn[0] != drawn[2]

    def test_a_seed_decides_a_reply_whatever_else_is_asked(self) -> None:
        """A request with a seed gives the same reply in any engine, at any time."""
        sampling = RequestSampling(temperature=1.5, top_p=1.0, top_k=0, max_new_tokens=12, seed=7)
        engine = self.engine(seed=5)
        first = engine.reply([_asking("Hi")], sampling)[0]
        engine.reply([_asking("Hi")], replace(sampling, seed=None))
        again = engine.reply([_asking("Hi")], sampling)[0]
        other = engine.reply([_asking("Hi")], replace(sampling, seed=8))[0]
        engine.close()
        assert first.token_ids == again.token_ids
        assert first.token_ids != other.token_ids

    def test_n_replies_to_each_conversation_come_in_order(self) -> None:
        """Replies `c * n` to `c * n + n - 1` are those to conversation `c`, and each is drawn on its own."""
        engine = self.engine()
        conversations = [_asking(question) for question in QUESTIONS]
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
        engine = self.engine(scripted_bundle(SCRIPT))
        for stop, text in ((("😀!", "x"), "oé"), (("é😀",), "o"), (("!o",), SCRIPT)):
            deltas = list(engine.stream([_asking("Hi")], replace(GREEDY, stop=stop)))
            assert "".join(delta.text for delta in deltas) == text
            assert deltas[-1].finish_reason == "stop"
        engine.close()

    def test_log_probabilities_equal_teacher_forcing(self) -> None:
        """Those of a forward pass over prompt and reply, before temperature and filters, and the most likely."""
        import torch

        bundle = self.bundle()
        engine = self.engine(bundle)
        sampling = Sampling(temperature=1.5, top_p=0.9, top_k=9, max_new_tokens=8, logprobs=2)
        for question in QUESTIONS:
            prompt = chatml_renderer(bundle.tokenizer).prompt_ids(_asking(question))
            reply = engine.reply([_asking(question)], sampling)[0]
            assert reply.prompt_tokens == len(prompt)
            with torch.no_grad():
                logits = bundle.module(input_ids=torch.tensor([[*prompt, *reply.token_ids]])).logits[0]
            expected = logits.float().log_softmax(-1)[len(prompt) - 1 : -1]
            assert [given.token_id for given in reply.logprobs] == list(reply.token_ids)
            for row, given in zip(expected, reply.logprobs, strict=True):
                assert abs(given.logprob - float(row[given.token_id])) < 1e-3
                assert [token for token, _ in given.top] == row.topk(2).indices.tolist()
                assert abs(given.top[0][1] - float(row.max())) < 1e-3
        engine.close()

    def test_a_prompt_is_continued_without_a_template(self) -> None:
        """`Prompt` gives ids, or text, that the model goes on from."""
        bundle = self.bundle()
        engine = self.engine(bundle)
        ids = bundle.tokenizer("Who runs the inn").input_ids
        expected = _continued(bundle, ids, GREEDY.max_new_tokens)
        for prompt in (Prompt("Who runs the inn"), Prompt(ids=tuple(ids))):
            assert list(engine.reply([prompt], GREEDY)[0].token_ids) == expected
        engine.close()

    def test_callers_at_the_same_time_get_their_own_replies(self) -> None:
        """Four threads that ask at once are answered as if each were alone."""
        from concurrent.futures import ThreadPoolExecutor

        engine = self.engine()
        asked = [*QUESTIONS, "Hello there"]
        alone = [engine.reply([_asking(question)], GREEDY)[0].token_ids for question in asked]
        with ThreadPoolExecutor(len(asked)) as pool:
            replies = list(pool.map(lambda question: engine.reply([_asking(question)], GREEDY)[0], asked))
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
            reply = engine.reply([_asking("Hi")], sampling)[0]
        except TkError:
            return
        finally:
            engine.close()
        assert json.loads(reply.text) in ({"ok": True}, {"ok": False})

    def test_sampling_follows_its_filters(self) -> None:
        """Where only the best token is left by `top_k` or `top_p`, or by a temperature near 0, sampling is greedy."""
        engine = self.engine()
        conversations = [_asking(question) for question in QUESTIONS]
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
            reply = engine.reply([_asking(question)], replace(GREEDY, repetition_penalty=1.5))[0]
            expected = _reference(bundle, _asking(question), GREEDY.max_new_tokens, penalty=1.5)
            assert list(reply.token_ids) == expected
        engine.close()

    def test_without_sampling_the_options_of_the_run_hold(self) -> None:
        """`sampling=None` means the options that the engine was started with."""
        options = self.default_options
        engine = self.engine(scripted_bundle("ab", endless=True), **options)
        reply = engine.reply([_asking("Hi")])[0]
        engine.close()
        assert len(reply.token_ids) == options["max_new_tokens"]

    def test_closing_the_iterator_stops_the_work(self) -> None:
        """After the first piece and `close()`, most of the forward passes never happen."""
        import time

        bundle = scripted_bundle("ab", endless=True)
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1
            # A thread that runs ahead of its reader would otherwise be done before the reader closes.
            time.sleep(0.005)

        bundle.module.register_forward_pre_hook(count)
        engine = self.engine(bundle)
        stream = engine.stream([_asking("Hi")], replace(GREEDY, max_new_tokens=200))
        first: Delta = next(iter(stream))
        stream.close()  # type: ignore[attr-defined]
        time.sleep(0.1)
        after_closing = passes
        time.sleep(0.1)
        assert passes == after_closing
        engine.close()
        assert first.index == 0
        assert passes < 100

    def test_the_module_is_left_as_it_was(self) -> None:
        """Weights, dtype and train mode are the same after generating as before."""
        bundle = self.bundle()
        bundle.module.train()
        before = {name: value.clone() for name, value in bundle.module.state_dict().items()}
        engine = self.engine(bundle)
        engine.reply([_asking("Hi")], GREEDY)
        engine.close()
        after = bundle.module.state_dict()
        assert [name for name in before if not before[name].equal(after[name])] == []
        assert bundle.module.training

    def test_an_engine_can_be_used_again_and_closed_twice(self) -> None:
        """A second call gives the same replies; closing twice is no error."""
        engine = self.engine()
        first, second = (engine.reply([_asking("Hi")], GREEDY) for _ in range(2))
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
        reply = engine.reply([_asking("Hi")], GREEDY)[0]
        engine.close()
        assert list(reply.token_ids) == _reference(bundle, _asking("Hi"), GREEDY.max_new_tokens)

    def test_no_conversations_no_replies(self) -> None:
        """An empty batch gives an empty list."""
        engine = self.engine()
        assert engine.reply([], GREEDY) == []
        engine.close()


def scripted_bundle(text: str, *, endless: bool = False) -> ModelBundle:
    """A tiny Llama that says `text` and then `<|im_end|>`, or `text` over and over.

    Attention and MLP are zero, so the next token depends on the last one alone: the row of the head
    that belongs to the next token is the embedding of the last one. No token may occur twice.
    """
    import torch

    bundle = tiny.make_bundle("llama", hidden_size=64)
    tokenizer, module = bundle.tokenizer, bundle.module
    said = tokenizer(text, add_special_tokens=False).input_ids
    chain = [tokenizer("\n").input_ids[0], *said, said[0] if endless else tokenizer.eos_token_id]
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = torch.nn.functional.normalize(module.model.embed_tokens.weight, dim=-1)
        module.model.embed_tokens.weight.copy_(embeddings)
        module.lm_head.weight.zero_()
        for last, following in itertools.pairwise(chain):
            module.lm_head.weight[following] += 4.0 * embeddings[last]
    return bundle


def _asking(question: str) -> Conversation:
    return Conversation((Message("user", question),))


def _reference(
    bundle: ModelBundle, conversation: Conversation, count: int, penalty: float = 1.0
) -> list[int]:
    """Ids of the greedy reply, a full forward pass for each."""
    prompt = chatml_renderer(bundle.tokenizer).prompt_ids(conversation)
    return _continued(bundle, prompt, count, penalty)


def _continued(bundle: ModelBundle, prompt: list[int], count: int, penalty: float = 1.0) -> list[int]:
    import torch

    stop_ids = chatml_renderer(bundle.tokenizer).stop_ids
    ids: list[int] = []
    while len(ids) < count and (not ids or ids[-1] not in stop_ids):
        with torch.no_grad():
            logits = bundle.module(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
        for token in {*prompt, *ids}:
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        ids.append(int(logits.argmax()))
    return ids
