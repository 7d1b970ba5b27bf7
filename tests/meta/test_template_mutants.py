"""Every check of the template contract notices the mistake that it is there for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import tk_demo_template
from mutation import Mutants
from tk_demo_template import JINJA, TEMPLATE, turns_of

from tkernel import Message, hookimpl
from tkernel.rendering import SegmentRenderer
from tkernel.testing import TemplateContract
from tkernel.types.rendering import Segment, Turn
from tkernel_plugins.templates.text import Text
from tkernel_plugins.templates.tool_formats.default import DEFAULT
from tkernel_plugins.templates.vendors.generic import CHATML

MUTANTS = Mutants(TemplateContract)
IGNORED = -100


class Plugin:
    """The right template, with what `make` does to its renderer."""

    name = "demo"

    def __init__(self, make):
        self.make = make

    @hookimpl
    def render_template(self, request):
        return self.make(TEMPLATE.render_template(request))


class Wrapped:
    """A renderer some of whose attributes are replaced."""

    def __init__(self, renderer, **replaced):
        self.renderer = renderer
        vars(self).update(replaced)

    def __getattr__(self, name):
        return getattr(self.renderer, name)


def mutant(check, *also):
    """A function from the right renderer to a wrong one is a mutant."""

    def register(make):
        MUTANTS.add(Plugin(make), check, *also)
        return make

    return register


def encoding(renderer, change):
    """The renderer with `change(sample, **arguments of encode)` on what it encodes."""

    def encode(conversations, **kwargs):
        return [change(sample, **kwargs) for sample in renderer.encode(conversations, **kwargs)]

    return Wrapped(renderer, encode=encode)


def rendering(renderer, turns, **words):
    """A renderer over other turns."""
    defaults = {"stop_words": ("<|end|>",), "added_tokens": renderer.added_tokens, "jinja": lambda: JINJA}
    return SegmentRenderer("demo", renderer.tokenizer, turns, **{**defaults, **words})


@mutant("test_supervises_exactly_the_reply_and_its_terminator")
def learns_the_header(renderer):
    def turns(conversation):
        return [
            Turn(turn.prompt[:-1], (turn.prompt[-1], *turn.reply), turn.trained, turn.weight)
            for turn in turns_of(conversation)
        ]

    def parse(text):
        return Message("assistant", text.removeprefix("<|assistant|>"))

    return rendering(renderer, turns, parse=parse, jinja=None)


@mutant("test_supervises_exactly_the_reply_and_its_terminator", "test_a_reply_parses_back_to_its_message")
def stops_at_another_token(renderer):
    return rendering(renderer, turns_of, stop_words=())


@mutant("test_stop_words_and_stop_ids_are_the_same_tokens")
def stop_words_in_another_order(renderer):
    return Wrapped(renderer, stop_words=renderer.stop_words[::-1])


@mutant(
    "test_labels_are_the_ids_or_masked",
    "test_training_ids_are_prompt_ids_plus_reply_ids",
    "test_train_on_prompt_supervises_everything",
    "test_weights_are_those_of_the_messages",
)
def one_label_more(renderer):
    return encoding(renderer, lambda sample, **_: replace(sample, labels=[*sample.labels, IGNORED]))


@mutant(
    "test_training_ids_are_prompt_ids_plus_reply_ids",
    "test_a_reply_parses_back_to_its_message",
    "test_jinja_says_the_same",
)
def prompt_without_header(renderer):
    return Wrapped(renderer, prompt_ids=lambda c: renderer.prompt_ids(c)[:-1])


@mutant("test_text_is_the_decoded_ids", "test_jinja_says_the_same")
def text_without_terminators(renderer):
    return Wrapped(renderer, text=lambda c: renderer.text(c).replace("<|end|>", "\n"))


@mutant("test_nothing_that_was_said_is_missing", "test_special_tokens_typed_by_a_user_stay_text")
def forgets_the_system_prompt(renderer):
    return rendering(renderer, lambda c: turns_of(c.replace(messages=c.turns)), jinja=None)


@mutant("test_special_tokens_typed_by_a_user_stay_text")
def encodes_what_users_type(renderer):
    def untyped(segments):
        return tuple(replace(segment, typed=()) for segment in segments)

    def turns(conversation):
        return [replace(t, prompt=untyped(t.prompt), reply=untyped(t.reply)) for t in turns_of(conversation)]

    return rendering(renderer, turns)


def of_chatml(format_of):
    """ChatML, which has a place for tools, with what `format_of` makes of its tool format."""
    return replace(CHATML, tool_format=format_of(DEFAULT))


def untyped(write):
    """What writes text, without saying what of it was typed."""
    return lambda said: Text(write(said).text)


MUTANTS.add(
    of_chatml(lambda right: replace(right, describe=untyped(right.describe))),
    "test_special_tokens_typed_by_a_user_stay_text",
    **CHATML.contract,
)
MUTANTS.add(
    of_chatml(lambda right: replace(right, write=untyped(right.write))),
    "test_special_tokens_typed_by_a_user_stay_text",
    **CHATML.contract,
)
MUTANTS.add(
    of_chatml(
        lambda right: replace(right, read=lambda text: (found := right.read(text)) and ("", found[1][:1]))
    ),
    "test_a_reply_parses_back_to_its_message",
    **CHATML.contract,
)
MUTANTS.add(
    of_chatml(lambda right: replace(right, jinja_tools="")), "test_jinja_says_the_same", **CHATML.contract
)


MADE = itertools.count()


@mutant("test_rendering_again_gives_the_same")
def every_renderer_says_something_else(renderer):
    number = Segment(f"{next(MADE)} ")

    def turns(conversation):
        first, *rest = turns_of(conversation)
        return [replace(first, prompt=(number, *first.prompt)), *rest]

    return rendering(renderer, turns, jinja=None)


@mutant("test_batch_equals_single")
def pads_a_batch(renderer):
    def encode(conversations, **kwargs):
        samples = renderer.encode(conversations, **kwargs)
        longest = max(len(sample.input_ids) for sample in samples)
        pad = renderer.tokenizer.pad_token_id
        return [
            replace(
                sample,
                input_ids=sample.input_ids + [pad] * (longest - len(sample.input_ids)),
                labels=sample.labels + [IGNORED] * (longest - len(sample.labels)),
            )
            for sample in samples
        ]

    return Wrapped(renderer, encode=encode)


@mutant("test_earlier_turns_do_not_depend_on_later_ones")
def counts_the_turns(renderer):
    def turns(conversation):
        first, *rest = turns_of(conversation)
        return [replace(first, prompt=(Segment(f"{len(rest)} to come\n"), *first.prompt)), *rest]

    return rendering(renderer, turns, jinja=None)


@mutant(
    "test_mask_history_supervises_the_last_reply_alone",
    "test_training_ids_are_prompt_ids_plus_reply_ids",
    "test_the_train_flag_decides_for_its_message",
)
def forgets_mask_history(renderer):
    def encode(conversations, mask_history=False, **kwargs):
        return renderer.encode(conversations, **kwargs)

    return Wrapped(renderer, encode=encode)


@mutant("test_train_on_prompt_supervises_everything")
def forgets_train_on_prompt(renderer):
    def encode(conversations, train_on_prompt=False, **kwargs):
        return renderer.encode(conversations, **kwargs)

    return Wrapped(renderer, encode=encode)


@mutant("test_the_train_flag_decides_for_its_message")
def forgets_the_train_flag(renderer):
    return rendering(renderer, lambda c: [replace(turn, trained=None) for turn in turns_of(c)])


@mutant("test_weights_are_those_of_the_messages")
def forgets_the_weights(renderer):
    return rendering(renderer, lambda c: [replace(turn, weight=1.0) for turn in turns_of(c)])


@mutant("test_spans_cover_the_ids_and_separate_prompts_from_replies")
def spans_off_by_one(renderer):
    def change(sample, **_):
        return replace(sample, spans=[(start + 1, end + 1, *rest) for start, end, *rest in sample.spans])

    return encoding(renderer, change)


@mutant("test_a_reply_parses_back_to_its_message")
def parses_without_the_first_word(renderer):
    return Wrapped(renderer, parse_reply=lambda text: Message("assistant", text.partition(" ")[2]))


@mutant("test_tools_are_rendered_or_refused")
def leaves_tools_out(renderer):
    return rendering(renderer, lambda c: turns_of(c.replace(tools=())))


@mutant("test_roles_out_of_order_are_rendered_or_refused")
def keeps_the_last_of_two_questions(renderer):
    def turns(conversation):
        kept = [
            message
            for message, following in zip(
                conversation.messages, (*conversation.messages[1:], Message("")), strict=True
            )
            if message.role != following.role
        ]
        return turns_of(conversation.replace(messages=tuple(kept)))

    return rendering(renderer, turns)


@mutant("test_added_tokens_are_named")
def hides_what_it_adds(renderer):
    return Wrapped(renderer, added_tokens=())


@mutant("test_jinja_says_the_same")
def jinja_with_a_newline_more(renderer):
    return Wrapped(renderer, jinja=lambda: JINJA.replace("'<|end|>'", "'<|end|>\\n'"))


@MUTANTS.breaks("test_the_kernel_accepts_it")
class Unmarked(tk_demo_template.Template):
    def render_template(self, *arguments):
        return super().render_template(*arguments)


MUTANTS.add("heavy_plugins:TEMPLATE", "test_importing_the_plugin_imports_nothing_heavy")


def test_the_right_template_passes():
    assert MUTANTS.failing("tk_demo_template:TEMPLATE") == set()
    assert MUTANTS.failing(CHATML, **CHATML.contract) == set()


def test_every_check_has_a_mutant():
    assert MUTANTS.uncovered() == set()


@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_its_check(mutant):
    assert MUTANTS.noticed(mutant)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS.all, ids=str)
def test_the_mistake_fails_no_other_check(mutant):
    assert MUTANTS.failing(mutant.plugin, **mutant.suite) == {mutant.check, *mutant.also}
