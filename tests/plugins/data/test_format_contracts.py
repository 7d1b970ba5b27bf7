"""The built-in formats keep the contract of dataset plugins."""

from __future__ import annotations

from typing import Any

from tkernel.testing import DatasetContract

CHAT = [{"role": "user", "content": "What is the number?"}]


def liked_row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": f"Is {number} even?"},
            {"role": "assistant", "content": f"The answer is {number % 2 == 0}."},
        ],
        "label": number == 1,
    }


class TestAlpaca(DatasetContract):
    plugin = "alpaca"


class TestShareGPT(DatasetContract):
    plugin = "sharegpt"


class TestOpenAI(DatasetContract):
    plugin = "openai"


class TestText(DatasetContract):
    plugin = "text"
    rows = "text"


class TestAlpacaRanking(DatasetContract):
    plugin = "alpaca"
    rows = "preference"
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    examples = [
        {"question": f"What is {n} plus {n}?", "good": f"It is {2 * n}.", "bad": f"It is {n}."}
        for n in range(3)
    ]


class TestShareGPTFeedback(DatasetContract):
    plugin = "sharegpt"
    rows = "feedback"
    columns = {"messages": "messages", "kto_tag": "label"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}

    examples = [liked_row(number) for number in range(3)]


class TestTRL(DatasetContract):
    plugin = "trl"
    columns = {"prompt": "prompt", "completion": "completion"}
    examples = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}."} for n in range(3)]


class TestTRLPreference(DatasetContract):
    plugin = "trl"
    rows = "preference"
    examples = [
        {
            "chosen": [*CHAT, {"role": "assistant", "content": f"It is {n}."}],
            "rejected": [*CHAT, {"role": "assistant", "content": f"It is not {n}."}],
        }
        for n in range(3)
    ]


class TestTRLFeedback(DatasetContract):
    plugin = "trl"
    rows = "feedback"
    examples = [{"prompt": CHAT, "completion": f"It is {n}.", "label": n == 1} for n in range(3)]
