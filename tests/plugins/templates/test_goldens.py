"""Named templates give LLaMA-Factory's prompts, ids and labels, token for token."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from template_kit import built_in

from tkernel.rendering import SegmentRenderer
from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Encoded
from tkernel_plugins.data.roles import from_llamafactory
from tkernel_plugins.data.truncation import proportional, truncate
from tkernel_plugins.templates.tool_formats import TOOL_FORMATS

NAMED = sorted({entry.name for entry in entry_points(group="tkernel.template")} - {"auto"})
THINKING = {"true": True, "false": False, "null": None}
IGNORED = -100
Golden = Callable[[str], list[dict[str, Any]]]
Renderers = Callable[..., SegmentRenderer]


def conversation_of(example: dict[str, Any]) -> Conversation:
    """The conversation of a golden's `example`."""
    messages = example["_prompt"] + example["_response"]
    return from_llamafactory(messages, example["_system"], example["_tools"])


@pytest.mark.parametrize("name", NAMED)
def test_prompts_and_replies_are_the_goldens_text(golden: Golden, renderer: Renderers, name: str) -> None:
    rows = [row for row in golden("templates") if row["template"] == name]
    assert rows
    for row in rows:
        conversation = from_llamafactory(row["messages"], row["system"], row["tools"])
        for mode, expected in row["variants"].items():
            flags = dict(part.partition("=")[::2] for part in mode.split(","))
            options: dict[str, Any] = {}
            if "enable_thinking" in flags:
                options["enable_thinking"] = THINKING[flags["enable_thinking"]]
            if "preserve_thinking" in flags:
                options["preserve_thinking"] = True
            used = renderer(name, **options)
            mask_history = "discard_history_cot" in flags
            (encoded,) = used.encode([conversation], mask_history=mask_history)
            ids = encoded.input_ids[:-1] if used.efficient_eos else encoded.input_ids
            parts = [used.tokenizer.decode(ids[start:end]) for start, end, _, _ in encoded.spans]
            assert [list(pair) for pair in zip(parts[::2], parts[1::2], strict=True)] == expected, (
                row["conversation"],
                mode,
            )


def sample_of(renderer: SegmentRenderer, row: dict[str, Any]) -> Encoded:
    """The sample of a row: its conversation, cut to `cutoff_len`."""
    options = dict(row["options"])
    cutoff_len, last_first = options.pop("cutoff_len", 2**31), options.get("mask_history", False)
    (encoded,) = renderer.encode([conversation_of(row["example"])], **options)
    (cut,) = truncate(encoded, cutoff_len, last_first=last_first, ends=renderer.efficient_eos)
    return cut


@pytest.mark.parametrize(
    "name",
    [
        *("alpaca", "chatml", "deepseek3", "default", "gemma", "glm4"),
        *("llama2", "llama3"),
        *("mistral", "qwen3", "qwen3_nothink", "smollm2"),
    ],
)
def test_ids_and_labels_are_the_goldens(golden: Golden, renderer: Renderers, name: str) -> None:
    for row in golden("sft_labels"):
        if row["template"] == name:
            encoded = sample_of(renderer(name), row)
            where = (row["sample"], row["options"])
            assert encoded.input_ids == row["input_ids"], where
            assert encoded.labels == row["labels"], where


@pytest.mark.parametrize("family", ["qwen3", "llama3_1"])
def test_ids_and_labels_are_the_goldens_with_real_tokenizers(
    golden: Golden, renderer: Renderers, family: str
) -> None:
    rows = [row for row in golden("real_tokenizers") if row["tokenizer"] == family]
    for row in rows:
        encoded = sample_of(renderer(row["template"], family), row)
        where = (row["template"], row["sample"], row["options"])
        assert (encoded.input_ids, encoded.labels) == (row["input_ids"], row["labels"]), where


def test_batches_give_the_same_ids_as_single_conversations(golden: Golden, renderer: Renderers) -> None:
    rows = [row for row in golden("sft_labels") if row["template"] == "qwen3" and not row["options"]]
    encoded = renderer("qwen3").encode([conversation_of(row["example"]) for row in rows])
    assert [one.input_ids for one in encoded] == [row["input_ids"] for row in rows]


def last_turn(used: SegmentRenderer, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Ids before the last reply and of it."""
    (encoded,) = used.encode([conversation], mask_history=True)
    start = encoded.spans[-1][0]
    return encoded.input_ids[:start], encoded.input_ids[start:]


def test_pairs_are_the_goldens(golden: Golden, renderer: Renderers, shared: Path) -> None:
    data = json.loads((shared / "data" / "dpo_en_demo.json").read_text(encoding="utf-8"))
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    for row in golden("other_stages"):
        if row["stage"] == "rm":
            raw = data[row["row"]]
            asked = [{"role": roles[m["from"]], "content": m["value"]} for m in raw["conversations"]]
            system = asked.pop(0)["content"] if asked[0]["role"] == "system" else ""
            used = renderer(row["template"])
            replies = []
            for key in ("chosen", "rejected"):
                reply = {"role": "assistant", "content": raw[key]["value"]}
                prompt, ids = last_turn(used, from_llamafactory([*asked, reply], system))
                replies.append(ids)
            ((keep_prompt, keep_reply),) = proportional(
                [(len(prompt), max(map(len, replies)))], row["cutoff_len"]
            )
            for key, ids in zip(("chosen", "rejected"), replies, strict=True):
                expected = prompt[:keep_prompt] + ids[:keep_reply]
                assert row[f"{key}_input_ids"] == expected, (row["template"], row["row"])
                assert row[f"{key}_labels"] == [IGNORED] * keep_prompt + ids[:keep_reply]


def test_feedback_and_prompts_are_the_goldens(golden: Golden, renderer: Renderers, shared: Path) -> None:
    folder = shared / "data"
    kto = json.loads((folder / "kto_en_demo.json").read_text(encoding="utf-8"))
    alpaca = json.loads((folder / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    for row in golden("other_stages"):
        if row["stage"] not in ("kto", "ppo"):
            continue
        if row["stage"] == "kto":
            messages = kto[row["row"]]["messages"]
        else:
            raw = alpaca[row["row"]]
            asked = "\n".join(filter(None, (raw["instruction"], raw["input"])))
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": raw["output"]}]
        prompt, reply = last_turn(renderer(row["template"]), from_llamafactory(messages))
        ((keep_prompt, keep_reply),) = proportional([(len(prompt), len(reply))], row["cutoff_len"])
        prompt, reply = prompt[:keep_prompt], reply[:keep_reply]
        where = (row["stage"], row["template"], row["row"])
        if row["stage"] == "kto":
            assert row["input_ids"] == prompt + reply, where
            assert row["labels"] == [IGNORED] * keep_prompt + reply, where
        else:
            assert (row["input_ids"], row["labels"]) == (prompt, reply), where


def test_what_a_template_declares_is_the_goldens(golden: Golden) -> None:
    for row in golden("templates"):
        template = built_in(row["template"])
        declared = [template.default_system, template.efficient_eos, template.replace_eos]
        assert declared == [row["default_system"], row["efficient_eos"], row["replace_eos"]]
        assert list(template.stop_words) == row["stop_words"], template.name
        assert list(template.thought_words) == row["thought_words"], template.name
        assert template.reasoning == ("enable_thinking=true" in row["variants"]), template.name
        media = row["mm_plugin"].removesuffix("Plugin").lower()
        spelled = {"base": "", "minicpmv4_6": "minicpmv46", "lfmvl": "lfm2vl"}.get(media, media)
        assert (template.media or "").replace("_", "") == spelled, template.name


def test_tool_formats_are_the_goldens(golden: Golden) -> None:
    weather, news = _tools(golden)
    for row in golden("tool_utils"):
        used = TOOL_FORMATS[row["tool_format"]]
        assert used.describe([weather, news]).text == row["tool_formatter"]
        wrapped = [{"type": "function", "function": tool} for tool in (weather, news)]
        assert used.describe(wrapped).text == row["tool_formatter_wrapped"]
        for number in ("one", "two"):
            if not isinstance(row[f"extract_{number}"], str):
                read = used.read(row[f"function_{number}"])
                assert read is not None
                assert [[call.name, call.arguments] for call in read[1]] == row[f"extract_{number}"]
                assert used.write(read[1]).text == row[f"function_{number}"]
        for text, expected in row["extract"]:
            # LLaMA-Factory does not read the calls that it writes in this format; they are read here.
            if row["tool_format"] == "glm4_moe" and "<arg_key>" in text:
                expected = [["f", '{"a": 1}']]
            read = used.read(text)
            found = text if read is None else [[call.name, call.arguments] for call in read[1]]
            assert found == expected, (row["tool_format"], text)


def _tools(golden: Golden) -> list[dict[str, Any]]:
    tools: list[dict[str, Any]] = json.loads(
        next(row["tools"] for row in golden("templates") if row["conversation"] == "tools")
    )
    return tools
