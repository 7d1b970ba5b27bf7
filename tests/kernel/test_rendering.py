"""Text, ids, labels, spans and prompts are folds over the same segments."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest
from character_tokenizer import AddedToken, CharacterTokenizer
from hypothesis import given
from hypothesis import strategies as st

from tkernel.encoding import SegmentEncoder
from tkernel.errors import DataError, TkError
from tkernel.rendering import IGNORED, SegmentRenderer, exchanges
from tkernel.types.conversation import Conversation, Message
from tkernel.types.rendering import Segment, Turn


def written(before: str, message: Message, after: str, special: bool) -> tuple[Segment, ...]:
    """One message between texts of the template; `after` as a special segment or as text."""
    end = len(before) + len(message.content)
    text = Segment(before + message.content, message.role, typed=((len(before), end),))
    return (text, Segment(after, message.role, special=special))


def turns_of(conversation: Conversation) -> list[Turn]:
    return [
        Turn(
            prompt=tuple(s for m in asked for s in written(m.role[0] + ":", m, "</s>", True)),
            reply=written("", reply, "</s>", True),
            trained=reply.train,
            weight=reply.weight,
        )
        for asked, reply in exchanges(conversation)
    ]


def renderer(**fields: Any) -> SegmentRenderer:
    return SegmentRenderer("toy", CharacterTokenizer("<s>", "</s>"), turns_of, **fields)


def talk(*texts: str, **last: Any) -> Conversation:
    """User and assistant in turn; `last` are fields of the last message."""
    roles = ("user", "assistant")
    messages = [Message(roles[i % 2], text) for i, text in enumerate(texts)]
    messages[-1] = Message(messages[-1].role, messages[-1].content, **last)
    return Conversation(tuple(messages))


CONVERSATIONS = st.lists(st.text("ab</s> ", max_size=9), min_size=2, max_size=8).map(
    lambda texts: talk(*(texts if len(texts) % 2 == 0 else texts[:-1]))
)


@given(conversation=CONVERSATIONS)
def test_the_ids_spell_the_text(conversation: Conversation) -> None:
    used = renderer()
    (encoded,) = used.encode([conversation])
    assert used.tokenizer.decode(encoded.input_ids) == used.text(conversation)


@given(conversation=CONVERSATIONS)
def test_typed_special_tokens_stay_text(conversation: Conversation) -> None:
    (encoded,) = renderer().encode([conversation])
    # One terminator for each message, whatever the messages say.
    assert encoded.input_ids.count(1) == len(conversation.messages)
    assert encoded.input_ids.count(0) == 0


@given(conversation=CONVERSATIONS)
def test_prompt_ids_and_reply_ids_are_the_training_ids(conversation: Conversation) -> None:
    used = renderer()
    (encoded,) = used.encode([conversation], mask_history=True)
    asked = conversation.replace(messages=conversation.messages[:-1])
    prompt = used.prompt_ids(asked)
    start = encoded.spans[-1][0]
    assert used.prompt_ids(conversation) == prompt == encoded.input_ids[:start]
    assert encoded.labels[:start] == [IGNORED] * start
    assert encoded.labels[start:] == encoded.input_ids[start:]


def labels(used: SegmentRenderer, conversation: Conversation, **options: Any) -> str:
    """The labels as text, `_` where nothing is learned."""
    (encoded,) = used.encode([conversation], **options)
    return "".join("_" if i == IGNORED else used.tokenizer.decode([i]) for i in encoded.labels)


def test_labels() -> None:
    talked = talk("ab", "c", "d", "ef")
    assert labels(renderer(), talked) == "_____c</s>____ef</s>"
    assert labels(renderer(), talked, train_on_prompt=True) == "u:ab</s>c</s>u:d</s>ef</s>"
    assert labels(renderer(), talked, mask_history=True) == "___________ef</s>"
    assert labels(renderer(), talked, mask_history=True, train_on_prompt=True) == "u:ab</s>__u:d</s>ef</s>"


def test_a_message_decides_for_itself_whether_it_is_learned() -> None:
    first, second = Message("user", "a"), Message("assistant", "b", train=True)
    talked = Conversation((first, second, first, Message("assistant", "c", train=False)))
    assert labels(renderer(), talked) == "____b</s>______"
    assert labels(renderer(), talked, mask_history=True) == "____b</s>______"


def test_the_end_of_a_sequence_replaces_a_terminator_that_replies_lack() -> None:
    def bare(conversation: Conversation) -> list[Turn]:
        return [
            Turn(tuple(Segment(f"u{m.content}") for m in asked), (Segment(reply.content),), reply.train)
            for asked, reply in exchanges(conversation)
        ]

    used = SegmentRenderer("bare", CharacterTokenizer("</s>"), bare, efficient_eos=True)
    talked = talk("a", "b", "c", "d")
    (encoded,) = used.encode([talked])
    assert used.tokenizer.decode(encoded.input_ids) == "uabucd</s>"
    assert labels(used, talked) == "__b</s>_d</s>"
    assert encoded.spans[-1] == (5, 7, 1, "reply")
    assert labels(used, talked, mask_history=True) == "_____d</s>"
    assert labels(used, talk("a", "b", train=False)) == "____"
    with pytest.raises(TkError, match="cannot train on prompts"):
        used.encode([talked], train_on_prompt=True)
    used.masked_ends = True
    long = talk("a", "b", "c", "d", "e", "f")
    ends = [i for i, label in enumerate(used.encode([long], mask_history=True)[0].labels) if label == 0]
    assert used.tokenizer.decode([0]) == "</s>"
    assert ends == [0, 3, 9]


def test_weights_are_on_the_reply_they_belong_to() -> None:
    used = renderer()
    (encoded,) = used.encode([talk("a", "b", weight=0.5)])
    assert encoded.weights == [1.0] * 4 + [0.5] * 2
    assert used.encode([talk("a", "b")])[0].weights is None


def test_earlier_turns_may_look_different_where_only_the_last_reply_matters() -> None:
    def forgetful(conversation: Conversation) -> list[Turn]:
        *_, last = turns_of(conversation)
        return [last]

    used = renderer(last_turns_of=forgetful)
    talked = talk("a", "b", "c", "d")
    assert used.tokenizer.decode(used.encode([talked])[0].input_ids) == "u:a</s>b</s>u:c</s>d</s>"
    assert used.tokenizer.decode(used.encode([talked], mask_history=True)[0].input_ids) == "u:c</s>d</s>"
    assert used.tokenizer.decode(used.prompt_ids(talk("a", "b", "c"))) == "u:c</s>"


def test_a_prompt_may_be_written_on_its_own() -> None:
    used = renderer(prompt_of=lambda conversation: [Segment(conversation.messages[-1].content)])
    assert used.tokenizer.decode(used.prompt_ids(talk("a", "b", "c"))) == "c"


def test_stop_words_come_before_the_end_of_a_sequence_and_only_once() -> None:
    used = renderer(stop_words=("<s>", "</s>"))
    assert (used.stop_words, used.stop_ids) == (("<s>", "</s>"), (0, 1))
    assert renderer().stop_words == ("</s>",)


def test_a_stop_word_that_is_no_token_is_an_error() -> None:
    with pytest.raises(TkError, match=r"no token '<\|end\|>'") as caught:
        renderer(stop_words=("<|end|>",))
    assert "add_special_tokens" in str(caught.value)


def test_a_stop_word_is_never_the_unknown_token() -> None:
    tokenizer: Any = CharacterTokenizer("<unk>", "</s>")
    tokenizer.unk_token, tokenizer.unk_token_id = "<unk>", 0
    tokenizer.convert_tokens_to_ids = lambda text: 1 if text == "</s>" else 0
    with pytest.raises(TkError, match=r"no token '<\|end\|>'"):
        SegmentRenderer("toy", tokenizer, turns_of, stop_words=("<|end|>",))


def test_without_a_parser_the_text_is_the_content() -> None:
    assert renderer().parse_reply("x") == Message("assistant", "x")
    assert renderer().jinja() is None


def test_a_renderer_can_be_sent_to_another_process() -> None:
    used = renderer()
    talked = talk("</s>", "b")
    expected = used.encode([talked])
    assert pickle.loads(pickle.dumps(used)).encode([talked]) == expected


@pytest.mark.parametrize(
    ("roles", "position", "expected"),
    [
        ("uu", 1, "an assistant message"),
        ("a", 0, "a user or tool message"),
        ("sua" + "a", 3, "a user or tool message"),
        ("ut", 1, "an assistant message"),
        ("tu", 1, "an assistant message"),
        ("us", 1, "an assistant message"),
        ("uax", 2, "a user or tool message"),
    ],
)
def test_wrong_orders_of_roles_name_the_position(roles: str, position: int, expected: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool", "x": "narrator"}
    messages = tuple(Message(names[role]) for role in roles)
    with pytest.raises(DataError) as caught:
        exchanges(Conversation(messages))
    assert f"message {position} has the role {messages[position].role!r} where {expected}" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("roles", "match"),
    [(("user",), "ends with message 0 of role 'user'"), (("system",), "no messages"), ((), "no messages")],
)
def test_conversations_without_a_last_reply_are_errors(roles: tuple[str, ...], match: str) -> None:
    with pytest.raises(DataError, match=match):
        exchanges(Conversation(tuple(Message(role) for role in roles)))


def test_results_of_several_tools_are_one_prompt() -> None:
    call = Message("assistant", "call")
    messages = (Message("user"), call, Message("tool", "1"), Message("tool", "2"), Message("assistant"))
    assert [len(asked) for asked, _ in exchanges(Conversation(messages))] == [1, 2]


# -- encoding --------------------------------------------------------------------------------------


def encode(tokenizer: CharacterTokenizer, *segments: Segment) -> list[str]:
    """Each segment's ids as text, special tokens in brackets."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [
        "".join(f"[{tokenizer.decode([i])}]" if i in special else tokenizer.decode([i]) for i in ids)
        for ids in SegmentEncoder(tokenizer).encode(segments)
    ]


def test_the_templates_text_becomes_tokens_and_typed_text_does_not() -> None:
    tokenizer = CharacterTokenizer("<s>", "</s>")
    segment = Segment("<s>hi <s></s>", typed=((3, 9),))
    assert encode(tokenizer, segment) == ["[<s>]hi <s>[</s>]"]


def test_a_special_token_made_of_own_and_typed_text_stays_text() -> None:
    tokenizer = CharacterTokenizer("<s>", "</s>")
    assert encode(tokenizer, Segment("<s>", typed=((1, 3),)), Segment("</s>", typed=((0, 2),))) == [
        *("<s>", "</s>")
    ]


def test_the_longest_special_token_is_taken() -> None:
    tokenizer = CharacterTokenizer("<s>", "<s>2", "</s>")
    assert encode(tokenizer, Segment("<s>2<s>", typed=((4, 7),))) == ["[<s>2]<s>"]


def test_added_tokens_that_are_not_special_are_tokens_in_typed_text_too() -> None:
    tokenizer = CharacterTokenizer("</s>", AddedToken("<think>", special=False))
    (ids,) = SegmentEncoder(tokenizer).encode([Segment("<think></s>", typed=((0, 11),))])
    assert ids[0] == 1
    assert tokenizer.decode(ids) == "<think></s>"
    assert 0 not in ids


def test_white_space_that_a_special_token_swallows_is_swallowed_beside_typed_text_too() -> None:
    tokenizer = CharacterTokenizer(AddedToken("<s>", lstrip=True, rstrip=True), "</s>")
    plain = Segment("a <s> b", typed=((0, 1),))
    spiked = Segment("a <s> </s>", typed=((6, 10),))
    assert encode(tokenizer, plain, spiked) == ["a[<s>]b", "a[<s>]</s>"]


def test_a_spelling_that_only_the_tokenizer_knows_does_not_pass() -> None:
    class Folding(CharacterTokenizer):
        """Reads `<S>` as `<s>`, as normalised special tokens are matched."""

        def encode(
            self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = False
        ) -> list[int]:
            return super().encode(text.lower(), add_special_tokens, split_special_tokens)

    tokenizer = Folding(AddedToken("<s>", normalized=True), "</s>")
    (ids,) = SegmentEncoder(tokenizer).encode([Segment("<s>a<S>", typed=((4, 7),))])
    assert ids.count(0) == 1


def test_a_special_token_that_the_model_also_knows_as_text_does_not_pass() -> None:
    class Unigram(CharacterTokenizer):
        """Makes `</s>` one piece even where special tokens are off."""

        def encode(
            self, text: str, add_special_tokens: bool = False, split_special_tokens: bool = False
        ) -> list[int]:
            return super().encode(text)

    tokenizer = Unigram("<s>", "</s>")
    (ids,) = SegmentEncoder(tokenizer).encode([Segment("a</s>", typed=((0, 5),))])
    assert tokenizer.decode(ids) == "a</s>"
    assert 1 not in ids


def test_constant_segments_are_encoded_once() -> None:
    tokenizer = CharacterTokenizer("</s>")
    encoder = SegmentEncoder(tokenizer)
    for _ in range(3):
        encoder.encode([Segment("header"), Segment("typed", typed=((0, 5),)), Segment("header")])
    assert tokenizer.encoded.count("header") == 1
    assert tokenizer.encoded.count("typed") == 3


def test_threads_do_not_see_each_others_special_tokens_switched_off() -> None:
    tokenizer = CharacterTokenizer("<s>", "</s>")
    encoder = SegmentEncoder(tokenizer)
    segments = [Segment("<s>x", typed=((3, 4),)), Segment("<s></s>", typed=((3, 7),))]
    expected = encoder.encode(segments)
    found: list[bool] = []

    def work() -> None:
        found.append(all(encoder.encode(segments) == expected for _ in range(50)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
