"""What a row of each kind becomes: ids and labels, cut by every policy, with its media, flags and weights."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinds_kit import IGNORED, encode, encoder, replies, table, toy_turns, words

from tkernel.errors import DataError, TkError
from tkernel.rendering import SegmentRenderer
from tkernel.testing.tiny import SPECIAL_TOKENS, make_tokenizer
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Turn
from tkernel_plugins.data.frames import as_reference

POLICIES = ("proportional", "keep_start", "keep_end", "split", "drop", "error")
SIDE_POLICIES = ("proportional", "keep_start", "keep_end")


def bare_turns(conversation: Conversation) -> list[Turn]:
    return [dataclasses.replace(turn, reply=turn.reply[:-1]) for turn in toy_turns(conversation)]


TOKENIZER = make_tokenizer((*SPECIAL_TOKENS, "<pixel>"))
TOY = SegmentRenderer("toy", TOKENIZER, toy_turns)
ENDING = SegmentRenderer("ending", TOKENIZER, bare_turns, efficient_eos=True)
"""Its replies have no terminator of their own."""


class Pixels:
    """Every `<image>` is as many `<pixel>` tokens as its path says; `<video>` too, two more."""

    def expand(self, conversation: Conversation) -> Conversation:
        sizes = {"<image>": iter(conversation.images), "<video>": iter(conversation.videos)}
        messages = []
        for message in conversation.messages:
            text, own = "", []
            for part in re.split("(<image>|<video>)", message.content):
                if part in sizes:
                    size = next(sizes[part])
                    count = sum(map(int, [size] if isinstance(size, str) else size)) + 2 * (part == "<video>")
                    own.append((len(text), len(text) + count * len("<pixel>")))
                    part = "<pixel>" * count
                text += part
            messages.append(dataclasses.replace(message, content=text, expanded=tuple(own)))
        return conversation.replace(messages=tuple(messages))

    def collate(self, samples: Any) -> Any:
        return {}


def spell(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


def learned(sample: dict[str, Any], side: str = "") -> str:
    return spell([i for i in sample[f"{side}labels"] if i != IGNORED])


def pixels(ids: list[int]) -> int:
    return ids.count(TOKENIZER.convert_tokens_to_ids("<pixel>"))


def supervised(messages: Any, renderer: Any = TOY, **fields: Any) -> list[dict[str, Any]]:
    return encode("supervised", renderer, [{"messages": messages}], **fields)


def pair(messages: Any, chosen: Any, rejected: Any, **fields: Any) -> dict[str, Any]:
    row = {"messages": messages, "chosen": chosen, "rejected": rejected}
    return encode("preference", fields.pop("renderer", TOY), [row], **fields)[0]


TALK = words("how", "so", "why", "because")
ASKED = words("how", "so", "why")


# -- supervised ------------------------------------------------------------------------------------


def test_replies_are_learned_and_options_and_flags_say_otherwise() -> None:
    assert learned(*supervised(TALK)) == "so</s>because</s>"
    assert learned(*supervised(TALK, mask_history=True)) == "because</s>"
    assert learned(*supervised(TALK, train_on_prompt=True)) == "u:how;a:so</s>u:why;a:because</s>"
    off = [TALK[0], TALK[1] | {"train": False}, *TALK[2:]]
    assert learned(*supervised(off)) == "because</s>"
    on = [TALK[0], TALK[1] | {"train": True}, *TALK[2:]]
    assert learned(*supervised(on, mask_history=True)) == "so</s>because</s>"


def test_weights_are_those_of_their_messages() -> None:
    (sample,) = supervised([TALK[0], TALK[1] | {"weight": 0.5}, *TALK[2:]])
    half = [i for i, w in zip(sample["input_ids"], sample["weights"], strict=True) if w == 0.5]
    assert spell(half) == "so</s>"
    assert supervised(TALK)[0]["weights"] is None


@given(
    texts=st.lists(st.text("ab </s>", min_size=1, max_size=12), min_size=2, max_size=8),
    cutoff_len=st.integers(2, 60),
    policy=st.sampled_from(POLICIES),
    ends=st.booleans(),
    mask_history=st.booleans(),
)
def test_every_policy_keeps_the_limit_and_counts_what_it_drops(
    texts: list[str], cutoff_len: int, policy: str, ends: bool, mask_history: bool
) -> None:
    messages = words(*texts[: len(texts) // 2 * 2])
    renderer = ENDING if ends else TOY
    (whole,) = supervised(messages, renderer, cutoff_len=10_000, mask_history=mask_history)
    size = len(whole["input_ids"])
    if policy == "error" and size > cutoff_len:
        with pytest.raises(DataError, match=r"f\.jsonl:1: [\d,]+ tokens, cutoff_len"):
            supervised(messages, renderer, cutoff_len=cutoff_len, truncation=policy)
        return
    samples = supervised(
        messages, renderer, cutoff_len=cutoff_len, truncation=policy, mask_history=mask_history
    )
    assert all(len(sample["input_ids"]) == len(sample["labels"]) <= cutoff_len for sample in samples)
    if size <= cutoff_len:
        assert {**samples[0], "piece": 0} == {**whole, "piece": 0}
    elif policy == "split":
        assert [sample["piece"] for sample in samples] == list(range(len(samples)))
        assert not any(sample["dropped"] for sample in samples)
        used = [i for sample in samples for i in sample["input_ids"]]
        rest = iter(whole["input_ids"])
        assert all(i in rest for i in used)
        if not any(sample["reason"] for sample in samples):
            assert used == whole["input_ids"]
            assert [i for sample in samples for i in sample["labels"]] == whole["labels"]
    elif policy == "drop":
        (sample,) = samples
        assert (sample["reason"], sample["dropped"]) == ("longer than cutoff_len", size)
        assert sample["detail"] == f"{size} tokens, cutoff_len {cutoff_len}"
    elif samples[0]["reason"] is None:
        assert samples[0]["dropped"] == size - len(samples[0]["input_ids"])


def test_a_piece_without_anything_to_learn_is_counted_by_its_number() -> None:
    samples = supervised(words("a" * 30, "b"), cutoff_len=20, truncation="split")
    assert [(sample["piece"], sample["reason"]) for sample in samples] == [(0, "nothing to learn"), (1, None)]
    assert samples[0]["detail"].startswith("piece 1 of 2")


def test_rows_that_are_too_long_are_all_named_at_once() -> None:
    rows = [{"messages": TALK}, {"messages": words("hi", "ho")}, {"messages": TALK}]
    with pytest.raises(DataError) as caught:
        encode("supervised", TOY, rows, cutoff_len=14, truncation="error", strict=False)
    assert "2 of the samples looked at" in str(caught.value)
    assert "f.jsonl:1: " in str(caught.value)
    assert "f.jsonl:3: " in str(caught.value)


# -- media -----------------------------------------------------------------------------------------


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[str], list[str], list[str]]:
    """Texts with placeholders, and the sizes of the images and videos in them."""
    texts: list[str] = []
    images: list[str] = []
    videos: list[str] = []
    for _ in range(2 * draw(st.integers(1, 3))):
        text = draw(st.text("ab ", min_size=1, max_size=5))
        for _ in range(draw(st.integers(0, 2)) if len(texts) % 2 == 0 else 0):
            kind = draw(st.sampled_from(["<image>", "<video>"]))
            (images if kind == "<image>" else videos).append(str(draw(st.integers(1, 6))))
            text += kind + draw(st.text("ab ", max_size=4))
        texts.append(text)
    return texts, images, videos


@given(drawn=pictures(), cutoff_len=st.integers(8, 60), policy=st.sampled_from(POLICIES[:4]))
def test_a_medium_is_kept_with_all_its_tokens_or_not_at_all(
    drawn: tuple[list[str], list[str], list[str]], cutoff_len: int, policy: str
) -> None:
    texts, images, videos = drawn
    row = {"messages": words(*texts), "images": images, "videos": videos}
    samples = encode("supervised", TOY, [row], media=Pixels(), cutoff_len=cutoff_len, truncation=policy)
    for sample in samples:
        kept = [int(item["path"]) for item in sample["images"]]
        kept += [int(item["path"]) + 2 for item in sample["videos"]]
        assert pixels(sample["input_ids"]) == sum(kept)
        assert len(sample["input_ids"]) <= cutoff_len
    if policy == "split" and not any(sample["reason"] for sample in samples):
        assert [i["path"] for sample in samples for i in sample["images"]] == images


@given(cutoff_len=st.integers(8, 40))
def test_a_video_of_frames_is_cut_like_any_other(cutoff_len: int) -> None:
    row = {"messages": words("a<video>b<video>", "c" * 9), "videos": ["4", as_reference(["1", "2"])]}
    (sample,) = encode("supervised", TOY, [row], media=Pixels(), cutoff_len=cutoff_len)
    sizes = {"4": 6, as_reference(["1", "2"]): 5}
    assert pixels(sample["input_ids"]) == sum(sizes[item["path"]] for item in sample["videos"])


def test_a_row_whose_media_cannot_be_found_can_be_used_whole_and_not_cut() -> None:
    class Scattered(Pixels):
        """Says nothing of what it wrote."""

        def expand(self, conversation: Conversation) -> Conversation:
            messages = super().expand(conversation).messages
            return conversation.replace(
                messages=tuple(dataclasses.replace(message, expanded=()) for message in messages)
            )

    row = {"messages": words("<image>", "ab"), "images": ["3"]}
    whole, cut = (
        encode("supervised", TOY, [row], media=Scattered(), strict=False, cutoff_len=n)[0] for n in (99, 8)
    )
    assert whole["reason"] is None
    assert cut["reason"]
    assert "such rows cannot be cut" not in cut["detail"]
    assert "stand for 1 media" in cut["detail"]


def test_both_sides_of_a_pair_keep_the_same_media() -> None:
    row = {
        "messages": words("<image>a<image>"),
        "chosen": replies("b" * 20),
        "rejected": replies("c"),
        "images": ["4", "5"],
    }
    for policy in SIDE_POLICIES:
        for cutoff_len in range(12, 40):
            (sample,) = encode(
                "preference", TOY, [row], media=Pixels(), cutoff_len=cutoff_len, truncation=policy
            )
            tokens = sum(int(item["path"]) for item in sample["images"])
            assert pixels(sample["chosen_input_ids"]) == pixels(sample["rejected_input_ids"]) == tokens


# -- pairs -----------------------------------------------------------------------------------------


def test_a_pair_learns_its_two_replies_after_one_prompt() -> None:
    sample = pair(ASKED, replies("because"), replies("dunno"))
    assert spell(sample["chosen_input_ids"]) == "u:how;a:so</s>u:why;a:because</s>"
    assert spell(sample["rejected_input_ids"]) == "u:how;a:so</s>u:why;a:dunno</s>"
    assert learned(sample, "chosen_") == "because</s>"
    assert learned(sample, "rejected_") == "dunno</s>"
    assert sample["supervised"] == sum(i != IGNORED for s in SIDES for i in sample[f"{s}_labels"])


SIDES = ("chosen", "rejected")


@given(
    question=st.text("ab ", min_size=1, max_size=40),
    answers=st.tuples(st.text("cd", min_size=1, max_size=40), st.text("ef", min_size=1, max_size=40)),
    cutoff_len=st.integers(4, 80),
    policy=st.sampled_from(SIDE_POLICIES),
    ends=st.booleans(),
)
def test_the_sides_of_a_pair_keep_one_prompt_whatever_is_cut(
    question: str, answers: tuple[str, str], cutoff_len: int, policy: str, ends: bool
) -> None:
    renderer = ENDING if ends else TOY
    messages, sides = words(question), [replies(answer) for answer in answers]
    fields: dict[str, Any] = {"renderer": renderer, "truncation": policy}
    whole = pair(messages, *sides, cutoff_len=10_000, **fields)
    sample = pair(messages, *sides, cutoff_len=cutoff_len, **fields)
    if sample["reason"]:
        return
    prompts = []
    for side in SIDES:
        ids, labels = sample[f"{side}_input_ids"], sample[f"{side}_labels"]
        start = next(place for place, label in enumerate(labels) if label != IGNORED)
        prompts.append(ids[:start])
        assert labels == [IGNORED] * start + ids[start:]
        assert len(ids) <= cutoff_len
        rest = iter(whole[f"{side}_input_ids"])
        assert all(i in rest for i in ids)
    assert prompts[0] == prompts[1]
    kept = sum(len(sample[f"{side}_input_ids"]) for side in SIDES)
    assert sample["dropped"] == sum(len(whole[f"{side}_input_ids"]) for side in SIDES) - kept


def test_prompt_and_longest_reply_share_the_room_of_a_pair() -> None:
    # Not each side by itself: the short reply would leave room for the whole prompt.
    sample = pair(words("a" * 20), replies("c" * 30), replies("e"), cutoff_len=20)
    assert [len(sample[f"{side}_input_ids"]) for side in SIDES] == [20, 11]
    assert spell(sample["rejected_input_ids"]) == "u:" + "a" * 7 + "e</s>"


def test_flags_and_weights_of_a_pair_are_those_of_its_replies() -> None:
    half = pair(ASKED, replies("b", weight=0.5), replies("c"))
    assert set(half["chosen_weights"]) == {1.0, 0.5}
    assert half["rejected_weights"] is None
    untrained = pair(ASKED, replies("b"), replies("c", train=False))
    assert untrained["reason"] == "nothing to learn"
    assert "in the rejected reply" in untrained["detail"]
    prompt = [ASKED[0], ASKED[1] | {"train": True}, ASKED[2]]
    with pytest.raises(DataError, match="message 1 is part of the prompt"):
        pair(prompt, replies("b"), replies("c"))


def test_a_completion_may_go_on_for_several_messages() -> None:
    call, result = replies("look up")[0], {**words("x")[0], "role": "tool", "content": "found"}
    sample = pair(words("q"), [call, result, *replies("b")], replies("c"))
    assert learned(sample, "chosen_") == "look up</s>b</s>"
    assert learned(sample, "rejected_") == "c</s>"
    with pytest.raises(DataError, match="must begin and end with an assistant message"):
        pair(words("q"), [result], replies("c"))


def test_a_pair_is_dropped_or_refused_as_a_whole() -> None:
    long = pair(words("q"), replies("b" * 30), replies("c"), cutoff_len=20, truncation="drop")
    assert (long["reason"], long["chosen_input_ids"]) == ("longer than cutoff_len", [])
    with pytest.raises(DataError, match=r"f\.jsonl:1: "):
        pair(words("q"), replies("b" * 30), replies("c"), cutoff_len=20, truncation="error")


# -- feedback --------------------------------------------------------------------------------------


def judged(*said: str) -> list[dict[str, Any]]:
    return [
        {"messages": words(f"q{n}"), "completion": replies(text), "label": n % 2 == 0}
        for n, text in enumerate(said)
    ]


def test_feedback_comes_with_the_completion_of_the_row_before() -> None:
    samples = encode("feedback", TOY, judged("a", "b", "c"))
    assert [learned(sample) for sample in samples] == ["a</s>", "b</s>", "c</s>"]
    assert [learned(sample, "kl_") for sample in samples] == ["c</s>", "a</s>", "b</s>"]
    assert [spell(sample["kl_input_ids"])[:5] for sample in samples] == ["u:q0;", "u:q1;", "u:q2;"]
    assert [sample["label"] for sample in samples] == [True, False, True]


def test_the_completion_of_a_row_that_cannot_be_rendered_goes_to_nobody() -> None:
    rows = judged("a", "b", "c")
    rows[1]["messages"] = words("q", "a")
    samples = encode("feedback", TOY, rows, strict=False)
    assert [sample["reason"] is None for sample in samples] == [True, False, True]
    assert [learned(sample, "kl_") for sample in samples] == ["c</s>", "", "a</s>"]
    with pytest.raises(DataError, match=r"f\.jsonl:2: "):
        encode("feedback", TOY, rows)


@pytest.mark.parametrize("policy", [*SIDE_POLICIES, "drop"])
def test_a_mismatched_completion_that_is_too_long_is_cut_and_costs_no_row(policy: str) -> None:
    rows = judged("a", "b" * 40)
    first, second = encode("feedback", TOY, rows, cutoff_len=20, truncation=policy)
    assert first["reason"] is None
    assert len(first["kl_input_ids"]) == 20
    assert (second["reason"] == "longer than cutoff_len") == (policy == "drop")


# -- prompts and text ------------------------------------------------------------------------------


def test_a_prompt_is_all_before_the_reply_and_the_reply_is_apart() -> None:
    with_reply, without = encode("prompt", TOY, [{"messages": TALK}, {"messages": ASKED}])
    assert spell(with_reply["input_ids"]) == spell(without["input_ids"]) == "u:how;a:so</s>u:why;a:"
    assert (spell(with_reply["labels"]), without["labels"]) == ("because</s>", [])
    assert with_reply["supervised"] == 0
    assert with_reply["reason"] is None


def test_policies_look_at_the_prompt() -> None:
    row = {"messages": words("a" * 20 + "?", "b" * 9)}
    (start,) = encode("prompt", TOY, [row], cutoff_len=10, truncation="keep_start")
    (end,) = encode("prompt", TOY, [row], cutoff_len=10, truncation="keep_end")
    (drop,) = encode("prompt", TOY, [row], cutoff_len=10, truncation="drop")
    assert spell(start["input_ids"]) == "u:" + "a" * 8
    assert spell(end["input_ids"]) == "a" * 6 + "?;a:"
    assert (drop["reason"], drop["dropped"]) == ("longer than cutoff_len", 26)
    assert start["dropped"] == 16


def test_further_columns_of_prompts_are_kept() -> None:
    import pyarrow as pa

    rows = [{"messages": TALK, "columns": '{"level": [3, null], "prompt": "why"}'}]
    given = table("prompt", rows).append_column("answer", pa.array([42]))
    row = json.loads(encoder("prompt", TOY)(given).to_pylist()[0]["row"])
    assert row["columns"] == {"level": [3, None], "prompt": "why", "answer": 42}
    assert [message["content"] for message in row["messages"]] == ["how", "so", "why"]


def test_a_text_is_learned_to_its_end_and_spells_no_special_token() -> None:
    (sample,) = encode("text", TOY, [{"text": "a</s>b"}])
    assert sample["input_ids"] == sample["labels"]
    assert spell(sample["input_ids"]) == "a</s>b" + TOKENIZER.eos_token
    assert sample["input_ids"].count(TOKENIZER.eos_token_id) == 1


@pytest.mark.parametrize("policy", POLICIES[:5])
def test_policies_cut_texts(policy: str) -> None:
    samples = encode("text", TOY, [{"text": "abcdefg"}], cutoff_len=5, truncation=policy, packing=False)
    spelled = [spell(sample["input_ids"]) for sample in samples]
    end = TOKENIZER.eos_token
    expected = {"keep_end": ["defg" + end], "split": ["abcde", "fg" + end], "drop": [""]}
    assert spelled == expected.get(policy, ["abcde"])


def test_texts_to_be_packed_are_not_cut() -> None:
    from types import SimpleNamespace

    (sample,) = encode("text", TOY, [{"text": "a" * 50}], cutoff_len=5, how=SimpleNamespace(encode_len=None))
    assert len(sample["input_ids"]) == 51


# -- all of them -----------------------------------------------------------------------------------

ROWS: dict[str, dict[str, Any]] = {
    "supervised": {"messages": TALK},
    "preference": {"messages": ASKED, "chosen": replies("b"), "rejected": replies("c")},
    "feedback": {"messages": ASKED, "completion": replies("b"), "label": True},
    "prompt": {"messages": ASKED},
    "text": {"text": "abc"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_encoders_go_to_other_processes_and_keep_their_columns(kind: str) -> None:
    made = encoder(kind, TOY)
    given = table(kind, [ROWS[kind]] * 3)
    samples = made(given)
    assert pickle.loads(pickle.dumps(made))(given).equals(samples)
    assert samples.schema.equals(made.features.arrow_schema)
    assert samples.num_rows == 3
    assert set(made.counted) | set(made.optional) <= set(made.features)
    assert made(given.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize("kind", ["preference", "feedback", "prompt", "text"])
def test_options_that_mean_nothing_for_a_kind_are_refused(kind: str) -> None:
    for options in ({"train_on_prompt": True}, {"truncation": "split"}) if kind != "text" else ():
        with pytest.raises(TkError, match=f"{kind} rows"):
            encoder(kind, TOY, **options)
    if kind == "text":
        with pytest.raises(TkError, match="text has no replies"):
            encoder(kind, TOY, mask_history=True)


def test_media_for_a_model_that_takes_none_are_an_error_of_every_kind() -> None:
    for kind in ("supervised", "preference", "feedback", "prompt"):
        (sample,) = encode(kind, TOY, [ROWS[kind] | {"images": ["a.png"]}], strict=False)
        assert "takes none" in sample["detail"]
