"""Every check of the engine contract notices the mistake that it is there for."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from queue import Queue

import pytest
import tk_demo_engine
import torch
from mutation import Mutants
from tk_demo_engine import Engine, Options

from tkernel import Conversation, Message, hookimpl
from tkernel.errors import TkError
from tkernel.testing import EngineContract, tiny
from tkernel.types.engine import Prompt

MUTANTS = Mutants(EngineContract, long=60)


class Changed(Engine):
    """The right engine; a mutant overrides what it changes."""

    name, Options = "demo", Options

    def __init__(self, request=None):
        if request is not None:
            super().__init__(request)

    @hookimpl
    def generate(self, request):
        if request.bundle is None:
            raise TkError("a model in memory is needed")
        return type(self)(request)


@MUTANTS.breaks(
    "test_greedy_equals_the_reference_loop",
    "test_a_prompt_is_continued_without_a_template",
    "test_log_probabilities_equal_teacher_forcing",
    "test_the_most_likely_tokens_are_given",
    "test_repetition_is_penalised",
)
class ForgetsTheFirstToken(Changed):
    def logits(self, ids):
        return super().logits(ids[1:])


@MUTANTS.breaks("test_batched_equals_single")
class PadsOnTheLeftWithoutAMask(Changed):
    def stream(self, conversations, sampling=None):
        self.longest = max((len(super(Changed, self).prompt_ids(c)) for c in conversations), default=0)
        return super().stream(conversations, sampling)

    def prompt_ids(self, conversation):
        ids = super().prompt_ids(conversation)
        return [0] * (self.longest - len(ids)) + ids


@MUTANTS.breaks("test_streams_concatenate_to_the_replies")
class FinishesTwice(Changed):
    def stream(self, conversations, sampling=None):
        for delta in super().stream(conversations, sampling):
            yield replace(delta, finish_reason=delta.finish_reason or "length")


@MUTANTS.breaks("test_a_reply_is_streamed_piece_by_piece", "test_closing_the_iterator_stops_the_work")
class SendsWholeReplies(Changed):
    def stream(self, conversations, sampling=None):
        waiting = {}
        for delta in super().stream(conversations, sampling):
            waiting.setdefault(delta.index, []).append(delta)
            if delta.finish_reason is not None:
                mine = waiting[delta.index]
                ids = tuple(token for piece in mine for token in piece.token_ids)
                text = "".join(piece.text for piece in mine)
                logprobs = tuple(one for piece in mine for one in piece.logprobs)
                yield replace(delta, text=text, token_ids=ids, logprobs=logprobs)


@MUTANTS.breaks(
    "test_pieces_are_whole_characters",
    "test_a_stop_id_ends_the_reply",
    "test_a_stop_text_ends_the_reply",
)
class DecodesTokenByToken(Changed):
    def stream(self, conversations, sampling=None):
        for delta in super().stream(conversations, sampling):
            ids = [token for token in delta.token_ids if token not in self.renderer.stop_ids]
            yield replace(delta, text=self.tokenizer.decode(ids))


@MUTANTS.breaks("test_a_stop_id_ends_the_reply")
class LeavesTheStopTokenOut(Changed):
    def stream(self, conversations, sampling=None):
        for delta in super().stream(conversations, sampling):
            yield replace(delta, token_ids=() if delta.finish_reason == "stop" else delta.token_ids)


@MUTANTS.breaks(
    "test_a_reply_has_at_most_max_new_tokens",
    "test_a_prompt_is_continued_without_a_template",
    "test_greedy_equals_the_reference_loop",
    "test_repetition_is_penalised",
    "test_without_sampling_the_options_of_the_run_hold",
)
class OneTokenMore(Changed):
    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        return super().stream(conversations, replace(sampling, max_new_tokens=sampling.max_new_tokens + 1))


@MUTANTS.breaks("test_the_message_is_what_the_template_parses")
class ParsesNothing(Changed):
    def reply(self, conversations, sampling=None):
        empty = Message("assistant", "")
        return [replace(reply, message=empty) for reply in super().reply(conversations, sampling)]


@MUTANTS.breaks("test_the_seed_decides_what_is_drawn")
class DrawsFromTheGlobalGenerator(Changed):
    def next_id(self, ids, logits, sampling, generator):
        generator = torch.default_generator if generator is self.generator else generator
        return super().next_id(ids, logits, sampling, generator)


@MUTANTS.breaks("test_a_seed_decides_a_reply_whatever_else_is_asked")
class ForgetsTheSeed(Changed):
    def generator_of(self, index, sampling):
        return self.generator


@MUTANTS.breaks("test_n_replies_to_each_conversation_come_in_order")
class DrawsOnceForAll(Changed):
    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        for delta in super().stream(conversations, replace(sampling, n=1)):
            for k in range(sampling.n):
                yield replace(delta, index=delta.index * sampling.n + k)


@MUTANTS.breaks("test_a_stop_text_ends_the_reply")
class StreamsTheBeginningOfAStopText(Changed):
    def stream(self, conversations, sampling=None):
        sampling = sampling or self.options
        sent = ""
        for delta in super().stream(conversations, replace(sampling, stop=())):
            sent += delta.text
            ended = any(stop in sent for stop in sampling.stop)
            yield replace(delta, finish_reason="stop" if ended else delta.finish_reason)
            if ended:
                return


@MUTANTS.breaks("test_log_probabilities_equal_teacher_forcing", "test_the_most_likely_tokens_are_given")
class GivesThemAfterTheTemperature(Changed):
    def logprobs(self, token, logits, sampling):
        return super().logprobs(token, logits / sampling.temperature, sampling)


@MUTANTS.breaks("test_the_most_likely_tokens_are_given")
class GivesTheChosenTokenAlone(Changed):
    def logprobs(self, token, logits, sampling):
        return super().logprobs(token, logits, replace(sampling, logprobs=0))


@MUTANTS.breaks("test_the_most_likely_tokens_are_given", cannot={"logprobs": "it says so and does it"})
class SaysThatItCannotAndDoes(Changed):
    """What an engine declares that it cannot do must be refused."""


@MUTANTS.breaks("test_a_prompt_is_continued_without_a_template")
class AsksThePromptAsAUser(Changed):
    def prompt_ids(self, conversation):
        if isinstance(conversation, Prompt):
            conversation = Conversation((Message("user", conversation.text),))
        return super().prompt_ids(conversation)


@MUTANTS.breaks("test_callers_at_the_same_time_get_their_own_replies")
class SharesItsState(Changed):
    def prompt_ids(self, conversation):
        self.asked = conversation
        time.sleep(0.02)
        return super().prompt_ids(self.asked)


@MUTANTS.breaks("test_a_grammar_is_held_or_refused")
class IgnoresTheGrammar(Changed):
    def stream(self, conversations, sampling=None):
        if getattr(sampling, "grammar", None):
            sampling = replace(sampling, grammar=None)
        return super().stream(conversations, sampling)


@MUTANTS.breaks("test_sampling_follows_its_filters")
class ForgetsTopK(Changed):
    def next_id(self, ids, logits, sampling, generator):
        return super().next_id(ids, logits, replace(sampling, top_k=0), generator)


@MUTANTS.breaks("test_repetition_is_penalised")
class ForgetsTheRepetitionPenalty(Changed):
    def next_id(self, ids, logits, sampling, generator):
        return super().next_id(ids, logits, replace(sampling, repetition_penalty=1.0), generator)


@MUTANTS.breaks("test_without_sampling_the_options_of_the_run_hold")
class ForgetsTheOptions(Changed):
    def stream(self, conversations, sampling=None):
        return super().stream(conversations, sampling or Options(max_new_tokens=9))


@MUTANTS.breaks("test_closing_the_iterator_stops_the_work")
class WorksOnInAThread(Changed):
    def stream(self, conversations, sampling=None):
        queue = Queue()
        module = self.module

        def work():
            self.module = module
            try:
                for delta in Engine.stream(self, conversations, sampling):
                    queue.put(delta)
                queue.put(None)
            except TkError as error:
                queue.put(error)

        threading.Thread(target=work, daemon=True).start()
        for item in iter(queue.get, None):
            if isinstance(item, TkError):
                raise item
            yield item


@MUTANTS.breaks("test_closing_the_iterator_frees_its_places")
class KeepsThePlacesOfAClosedIterator(Changed):
    running = 0

    def stream(self, conversations, sampling=None):
        self.running = len(conversations)
        yield from super().stream(conversations, sampling)
        self.running = 0


@MUTANTS.breaks(
    "test_greedy_equals_the_reference_loop",
    "test_a_prompt_is_continued_without_a_template",
    "test_a_reply_has_at_most_max_new_tokens",
    "test_a_stop_id_ends_the_reply",
    "test_repetition_is_penalised",
    "test_streams_concatenate_to_the_replies",
    "test_the_message_is_what_the_template_parses",
    cannot={"token_ids": "they are those of the text"},
)
class SaysAnotherText(Changed):
    def reply(self, conversations, sampling=None):
        return [replace(reply, text=reply.text + "!") for reply in super().reply(conversations, sampling)]


@MUTANTS.breaks("test_the_module_is_left_as_it_was")
class LeavesItInEvalMode(Changed):
    def next_id(self, *arguments):
        self.module.eval()
        return super().next_id(*arguments)


@MUTANTS.breaks("test_an_engine_can_be_used_again_and_closed_twice")
class ClosesOnce(Changed):
    def close(self):
        del self.module


@MUTANTS.breaks("test_a_model_on_disk_says_the_same_or_is_refused")
class LoadsAnotherModel(Changed):
    @hookimpl
    def generate(self, request):
        return type(self)(replace(request, bundle=request.bundle or tiny.make_bundle(seed=1)))


@MUTANTS.breaks("test_no_conversations_no_replies")
class NeedsAConversation(Changed):
    def stream(self, conversations, sampling=None):
        max(len(self.prompt_ids(conversation)) for conversation in conversations)
        return super().stream(conversations, sampling)


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_engine.Plugin):
    def generate(self, *arguments):
        return super().generate(*arguments)


MUTANTS.add("heavy_plugins:ENGINE", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_engine_passes():
    assert MUTANTS.failing("tk_demo_engine:ENGINE") == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}
