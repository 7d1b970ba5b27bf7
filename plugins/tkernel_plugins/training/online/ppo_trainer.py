"""The trainer of `stage: ppo`: a policy with a value head on its own completions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tkernel.types.engine import Reply
from tkernel_plugins.training import value_head
from tkernel_plugins.training.online.ppo import (
    KlControl,
    RunningScores,
    clipped_policy_loss,
    clipped_value_loss,
    generalised_advantages,
    moments,
    token_rewards,
    whitened,
)
from tkernel_plugins.training.online.samples import Sample, completion_logits, entropy_of, logps_of
from tkernel_plugins.training.online.trainer import OnlineTrainer
from tkernel_plugins.training.stage_trainer import Batch


class PpoTrainer(OnlineTrainer):
    """PPO with a value head on the policy and a KL penalty at every token.

    The policy has a value head (`value_head.attach`) before the trainer is made, so that the optimizer knows
    it; it is saved as `value_head.safetensors` beside the policy.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.options
        self.kl = KlControl(options.ppo_kl_coef, options.ppo_target, options.ppo_horizon)
        self.scores = RunningScores()

    # -- from a rollout to what is learned ---------------------------------------------------------

    def experience(
        self, samples: list[Sample], rewards: torch.Tensor, replies: Sequence[Reply], generations: int
    ) -> None:
        """Log-probabilities and values before the first step, advantages and returns."""
        options = self.options
        assert self.reference is not None
        old = self.score(samples, self.model)
        values = self.score(samples, self.model, self._values)
        with self.reference as module:
            reference = self.score(samples, module)
        scores = self._normalised(rewards) if options.ppo_score_norm else rewards
        given = [
            token_rewards(float(score), logps, other, self.kl.weight)
            for score, logps, other in zip(scores, old, reference, strict=True)
        ]
        if options.ppo_whiten_rewards:
            given = whitened(given, self._everywhere(moments(given)), shift=False)
        advantages = [
            generalised_advantages(reward, value, options.ppo_gamma, options.ppo_lambda)
            for reward, value in zip(given, values, strict=True)
        ]
        returns = [advantage + value for advantage, value in zip(advantages, values, strict=True)]
        advantages = whitened(advantages, self._everywhere(moments(advantages)))
        for row, sample in enumerate(samples):
            sample |= {"old_logps": old[row], "old_values": values[row], "returns": returns[row]}
            sample["advantages"] = advantages[row].to(old[row].dtype)
        self._follow(old, reference)

    def _follow(self, old: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> None:
        """Report the divergence of whole completions, and let the penalty follow it."""
        distances = torch.stack([(a - b).double().sum() for a, b in zip(old, reference, strict=True)])
        self.note("kl", distances.sum(), len(distances))
        self.note("kl_coef", self.kl.weight)
        count, total, _ = self._everywhere(moments([distances])).tolist()
        if self.model.training and self.options.ppo_adap_kl_ctrl:
            self.kl.update(total / count, int(count))

    def _normalised(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores less their running mean over their running deviation; an evaluation only looks."""
        if self.model.training:
            self.scores.update(self._everywhere(moments([scores])))
        return self.scores.normalised(scores) if self.scores.count else scores

    def _everywhere(self, sums: torch.Tensor) -> torch.Tensor:
        if self.args.world_size == 1:
            return sums
        gathered: torch.Tensor = self.accelerator.gather(sums.to(self.args.device).unsqueeze(0))
        return gathered.sum(0).cpu()

    def _values(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return value_head.values(model, inputs)[:, int(batch["start"]) : -1]

    # -- the loss ----------------------------------------------------------------------------------

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Mapping[str, torch.Tensor]]:
        """The micro-batch's share of the policy's loss plus `ppo_vf_coef` times that of the values."""
        found: list[torch.Tensor] = []
        with _values_in_output(self.accelerator.unwrap_model(model)):
            logits = completion_logits(model, inputs, found)
        values = found[0]
        logps, mask = logps_of(logits, inputs, self.temperature), inputs["mask"].to(logits.dtype)
        options = self.options
        policy, policy_clipped = clipped_policy_loss(
            logps, inputs["old_logps"], inputs["advantages"], options.ppo_cliprange
        )
        error, value_clipped = clipped_value_loss(
            values, inputs["old_values"], inputs["returns"].to(values.dtype), options.ppo_cliprange_value
        )
        with torch.no_grad():
            entropy = entropy_of(logits, self.temperature)
        noted = {
            "entropy": entropy,
            "policy_loss": policy,
            "value_loss": error,
            "clip_ratio": policy_clipped,
            "value_clip_ratio": value_clipped,
        }
        for name, numbers in noted.items():
            self.note(name, (numbers.detach() * mask).sum(), mask.sum())
        loss = ((policy + options.ppo_vf_coef * error) * mask).sum()
        return loss / items, noted

    # -- checkpoints -------------------------------------------------------------------------------

    def state_of(self) -> dict[str, Any]:
        """The weight of the penalty, and the running scores."""
        return {"kl": self.kl.weight, "scores": asdict(self.scores)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self.kl.weight = state["kl"]
        self.scores = RunningScores(**state["scores"])

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        head = value_head.head_of(model)
        value_head.detach(model)  # it has a file of its own, and the model's is that of a plain model
        try:
            super()._save(output_dir, state_dict if state_dict is None else _without_head(state_dict))
        finally:
            setattr(value_head.base_of(model), value_head.NAME, head)
        if self.args.should_save:  # transformers calls this in every process
            value_head.save(model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        policy = self.accelerator.unwrap_model(model or self.model)
        head = value_head.head_of(policy)
        value_head.detach(policy)
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        finally:
            setattr(value_head.base_of(policy), value_head.NAME, head)
        value_head.load(policy, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        policy = self.accelerator.unwrap_model(self.model)
        head = value_head.head_of(policy)
        value_head.detach(policy)
        try:
            super()._load_best_model()
        finally:
            setattr(value_head.base_of(policy), value_head.NAME, head)
        if self.state.best_model_checkpoint is not None:
            value_head.load(policy, self.state.best_model_checkpoint)


@contextmanager
def _values_in_output(policy: Any) -> Iterator[None]:
    """Let the head work within the model's `forward`, where DDP looks for what has been used: the output has the
    values, (batch, length), as its one hidden state."""
    head = value_head.head_of(policy)
    assert head is not None

    def add(_: Any, __: Any, output: Any) -> Any:
        # DDP makes the output anew, so it can have no field of its own.
        output["hidden_states"] = (head(output.hidden_states[-1]),)
        return output

    # Older PEFT (0.18, 0.19) calls the forward of the model inside past its hooks.
    handle = policy.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def _without_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if f"{value_head.NAME}.summary." not in name}
