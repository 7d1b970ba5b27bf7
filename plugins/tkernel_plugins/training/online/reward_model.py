"""Models that reward completions: with a value head in this process, or behind an URL."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tkernel.errors import TkError
from tkernel.types.bundle import ModelBundle
from tkernel.types.engine import Reply
from tkernel.types.requests import StageRequest
from tkernel_plugins.training import value_head
from tkernel_plugins.training.online.prompts import Prompt
from tkernel_plugins.training.online.rewards import RewardError, Score
from tkernel_plugins.training.saving import padding_id

TOGETHER = 8
"""Completions that a reward model scores at once."""


def is_url(name: str | None) -> bool:
    """Whether a reward model is behind an URL."""
    return str(name or "").startswith(("http://", "https://"))


def reward_model_of(request: StageRequest, device: torch.device) -> Score | None:
    """The judge that `reward_model` names; None if it is not set."""
    options = request.options
    if not options.reward_model:
        return None
    if is_url(options.reward_model):
        return RewardServer(options.reward_model, request.bundle.tokenizer, options.reward_timeout)
    assert request.load_model is not None
    bundle = request.load_model("reward")
    # Its head is with its last adapter, or with the model.
    names = [*reversed(options.reward_model_adapters), options.reward_model, bundle.facts.location or ""]
    return RewardModel(bundle, request.bundle.tokenizer, [Path(n).expanduser() for n in names], device)


class RewardModel:
    """A model of `stage: rm`: the value of the last token of prompt and completion is the reward.

    Args:
        bundle: the model, frozen.
        tokenizer: that of the policy, whose ids the reward model is given.
        folders: where its value head may be; the first that has one is taken.

    Raises:
        TkError: no value head, or another vocabulary than the policy's.
    """

    def __init__(
        self, bundle: ModelBundle, tokenizer: Any, folders: Sequence[Path], device: torch.device
    ) -> None:
        if bundle.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise TkError(
                f"the reward model {bundle.facts.name} has another vocabulary than the trained model, whose ids it "
                "would have to read",
                hint="Take a reward model of the same family, or serve it: `reward_model_type: api`.",
            )
        self.module = bundle.module.to(device).eval().requires_grad_(False)
        self.padding, self.device = padding_id(tokenizer), device
        found = [folder for folder in folders if value_head.has_saved(folder)]
        value_head.load(self.module, (found or list(folders))[0]).to(device).requires_grad_(False)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> torch.Tensor:
        """One reward for each completion, (completions)."""
        rows = [[*prompt.ids, *reply.token_ids] for prompt, reply in zip(prompts, replies, strict=True)]
        found = []
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            longest = max(map(len, some))
            ids = [row + [self.padding] * (longest - len(row)) for row in some]
            mask = [[1] * len(row) + [0] * (longest - len(row)) for row in some]
            inputs = {"input_ids": ids, "attention_mask": mask}
            tensors = {name: torch.tensor(value, device=self.device) for name, value in inputs.items()}
            found.append(value_head.last_values(self.module, tensors).cpu())
        return torch.cat(found)


class RewardServer:
    """A reward model behind an URL, with the protocol of LLaMA-Factory.

    `{"model": "model", "messages": [text, ...]}` is posted, the texts being prompt and completion as the model
    sees them, special tokens spelled out; the answer is `{"scores": [number, ...]}`.

    Args:
        timeout: seconds to wait for an answer.
    """

    def __init__(self, url: str, tokenizer: Any, timeout: float) -> None:
        self.url, self.tokenizer, self.timeout = url, tokenizer, timeout

    def __call__(self, prompts: Sequence[Prompt], replies: Sequence[Reply]) -> torch.Tensor:
        """One reward for each completion, (completions).

        Raises:
            RewardError: the server cannot be reached, takes too long, fails, or gives no such scores.
        """
        rows = [[*prompt.ids, *reply.token_ids] for prompt, reply in zip(prompts, replies, strict=True)]
        texts = [self.tokenizer.decode(row, skip_special_tokens=False) for row in rows]
        scores = self._post({"model": "model", "messages": texts})
        is_right = isinstance(scores, list) and len(scores) == len(rows)
        if not is_right or not all(
            isinstance(score, int | float) and math.isfinite(score) for score in scores
        ):
            raise RewardError(
                f"the reward server {self.url} gave {scores!r:.80} as `scores` for {len(rows)} completions",
                hint='It has to answer {"scores": [one number for each message]}.',
            )
        return torch.tensor(scores, dtype=torch.float64)

    def _post(self, payload: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url, json.dumps(payload).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            said = error.read(200).decode(errors="replace")
            raise RewardError(
                f"the reward server {self.url} failed: {error.code} {error.reason}: {said}"
            ) from error
        except TimeoutError as error:
            raise RewardError(
                f"the reward server {self.url} gave no answer in {self.timeout:g} seconds",
                hint="Raise `reward_timeout`, or send it less: lower `per_device_train_batch_size`.",
            ) from error
        except OSError as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                reason = f"no answer in {self.timeout:g} seconds"
            hint = "Is it running, and is `reward_model` its whole address?"
            raise RewardError(
                f"the reward server {self.url} cannot be reached: {reason}", hint=hint
            ) from error
        try:
            return json.loads(text)["scores"]
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(
                f"the reward server {self.url} answered {text[:80]!r}, which has no `scores`",
                hint='It has to answer {"scores": [one number for each message]}.',
            ) from error
