"""Which prompts a rollout takes, and what a prompt is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tkernel.types.conversation import Conversation
from tkernel.types.rendering import Renderer


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for a reply: as the engine gets it, as the model sees it (`ids`), and what
    reward functions get: `shown` (a text, or messages) and the row's other columns."""

    conversation: Conversation
    ids: tuple[int, ...]
    shown: Any
    columns: Mapping[str, Any]
    origin: Mapping[str, Any]

    @property
    def is_text(self) -> bool:
        """Whether the row's prompt is a plain text, so that rewards are given texts and not messages."""
        return isinstance(self.shown, str)


def read_prompt(sample: Mapping[str, Any], renderer: Renderer) -> Prompt:
    """The prompt of a sample that `PromptEncoder` made."""
    row = json.loads(sample["row"])
    tools = row["tools"]
    given = {"messages": row["messages"], "tools": None if tools is None else json.dumps(tools)}
    conversation = Conversation.from_row(given)
    columns = dict(row["columns"])
    text = columns.pop("prompt", None)
    shown = (
        conversation.messages[-1].content
        if isinstance(text, str)
        else [message_shown(message) for message in row["messages"]]
    )
    ids = tuple(renderer.prompt_ids(conversation))
    return Prompt(conversation, ids, shown, columns, sample["origin"])


def message_shown(message: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical message as users of OpenAI's and TRL's format know it."""
    shown = {"role": message["role"], "content": message["content"]}
    return shown | {name: message[name] for name in ("tool_calls",) if message.get(name)}


@dataclass(frozen=True)
class PromptOrder:
    """The prompts of each rollout: all of the data in a random order, epoch after epoch.

    The last rollout of an epoch is filled up with its first prompts. What a rollout takes depends on its
    number alone, so a resumed run goes on with the same ones.

    Args:
        prompts: how many there are.
        per_rollout: prompts that a rollout takes, on all processes.
        seed: of the order.
        shuffle: False takes them in the order of the data.
    """

    prompts: int
    per_rollout: int
    seed: int
    shuffle: bool = True

    @property
    def rollouts_per_epoch(self) -> int:
        """Rollouts until every prompt was taken."""
        return -(-self.prompts // self.per_rollout)

    def rollout(self, number: int) -> list[int]:
        """The indices of the prompts of rollout `number`, from 0."""
        epoch, part = divmod(number, self.rollouts_per_epoch)
        order: Sequence[int] = range(self.prompts)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(self.prompts, generator=generator).tolist()
        start = part * self.per_rollout
        return [order[place % self.prompts] for place in range(start, start + self.per_rollout)]
