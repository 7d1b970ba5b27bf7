"""The trainer of reward models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import TrainingArguments

from tkernel_plugins.training import score_head, value_head
from tkernel_plugins.training.fused.apply import fuse
from tkernel_plugins.training.fused.branches import Branches, require
from tkernel_plugins.training.joined_rows import join_rows, part_rows, scorer_of
from tkernel_plugins.training.part_collator import PartCollator
from tkernel_plugins.training.reference_trainer import model_input
from tkernel_plugins.training.reward_options import RewardOptions
from tkernel_plugins.training.sequence_rows import Row, joined
from tkernel_plugins.training.stage_trainer import Batch, StageTrainer
from tkernel_plugins.training.token_logps import as_forward

PREDICTIONS = "generated_predictions.jsonl"


@dataclass(frozen=True)
class Scores:
    """Of pairs, each (n,) in float32."""

    chosen: torch.Tensor
    rejected: torch.Tensor


def reward_losses(scores: Scores, options: RewardOptions) -> torch.Tensor:
    """Bradley and Terry's loss of each pair, (n,): `-log sigmoid(chosen - rejected - margin)`."""
    losses = -F.logsigmoid(scores.chosen - scores.rejected - options.reward_margin)
    if options.center_rewards_coefficient:
        losses = losses + options.center_rewards_coefficient * (scores.chosen + scores.rejected) ** 2
    return losses


class RewardTrainer(StageTrainer):
    """Trains a head and the layers below it to score the better reply of a pair higher.

    A reply's score is that of its last token. The loss of a step is the mean over its pairs. Logs `accuracy`,
    how often the chosen reply has the higher score, `rewards/chosen`, `rewards/rejected`, `rewards/margins`.

    Args:
        model: with a head, see `value_head.attach`.
        options: those of the stage.
        collator: of pairs.
        tokenizer: makes the ids of a trial.
        longest: most tokens of a sequence.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        options: RewardOptions,
        collator: PartCollator,
        tokenizer: Any,
        longest: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, data_collator=collator, **kwargs)
        self.options = options
        self.pad_token_id = collator.pad_token_id
        scorer = scorer_of(model, args)
        # With dropout the two sides would share what is dropped of their prompt.
        can_join = options.join_pairs and not has_dropout(model)
        self.joined = can_join and join_rows(model, scorer, tokenizer, args, longest)
        self.data_collator = replace(collator, joined=self.joined)
        self.fused = fuse(model)

    def batch_loss(self, model: Any, inputs: Batch, items: torch.Tensor) -> tuple[torch.Tensor, Scores]:
        """The sum of the losses of the pairs, divided by `items`, and their scores."""
        scores = self.scores(model, inputs)
        chosen, rejected = scores.chosen.detach(), scores.rejected.detach()
        sums = {
            "accuracy": (chosen > rejected).sum(),
            "rewards/chosen": chosen.sum(),
            "rewards/rejected": rejected.sum(),
            "rewards/margins": (chosen - rejected).sum(),
        }
        for name, total in zip(sums, torch.stack([s.float() for s in sums.values()]).tolist(), strict=True):
            self.note(name, total, len(chosen))
        return reward_losses(scores, self.options).sum() / items, scores

    def scores(self, model: Any, batch: Batch) -> Scores:
        """The scores of the pairs of a batch."""
        with self.accelerator.autocast():
            if self.joined and "parts" in batch:
                row = joined(batch["parts"])
                return Scores(*as_forward(model, lambda: self._of_row(row)).view(-1, 2).T)
            inputs = {n: v for n, v in model_input(batch).items() if n not in ("labels", "weights")}
            found = as_forward(model, lambda: value_head.last_values(self._inner(), inputs))
            return Scores(*found.view(2, -1))

    def _of_row(self, row: Row) -> torch.Tensor:
        require(value_head.base_of(self._inner()).config)
        inputs = {name: row[name] for name in ("input_ids", "position_ids")}
        branches = Branches.of(row["pieces"], row["input_ids"].device)
        hidden = value_head.hidden_states(self._inner(), {**inputs, "branches": branches})
        head = value_head.head_of(self._inner())
        assert head is not None
        scores: torch.Tensor = head(hidden[0][row["last"]])
        return scores

    def _inner(self) -> Any:
        return self.accelerator.unwrap_model(self.model)

    # -- predictions -------------------------------------------------------------------------------

    def predictions(self) -> Iterator[dict[str, float]]:
        """The scores of each pair of the evaluation data, in its order, to four decimals."""
        held_out = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        self.model.eval()
        for data in held_out.values():
            for batch in self.get_eval_dataloader(data):
                with torch.no_grad():
                    scores = self.scores(self.model, self._prepare_inputs(batch))
                pairs = torch.stack([scores.chosen, scores.rejected], 1)
                for chosen, rejected in self.accelerator.gather_for_metrics(pairs).tolist():
                    yield {"chosen": round(chosen, 4), "rejected": round(rejected, 4)}

    def write_predictions(self, output_dir: Path) -> Path:
        """Write the scores of the evaluation data, a JSON object a line."""
        lines = [json.dumps(prediction) for prediction in self.predictions()]
        path = output_dir / PREDICTIONS
        if self.is_world_process_zero():
            path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return path

    # -- saving ------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The model or adapter, and the head in the form of its kind."""
        folder = Path(output_dir or self.args.output_dir)
        is_score = isinstance(value_head.head_of(self.model), value_head.ScoreHead)
        names = tuple(f"{name}." for name in value_head.NAMES.values())
        state = self.model.state_dict() if state_dict is None else state_dict
        without = {key: tensor for key, tensor in state.items() if not key.startswith(names)}
        super()._save(output_dir, without)
        if not self.args.should_save:  # transformers calls this in every process
            return
        if not is_score:
            value_head.save(self.model, folder)
        elif hasattr(self.model, "peft_config"):
            score_head.complete_adapter(self.model, folder)
        else:
            for path in folder.glob("model*.safetensors*"):
                path.unlink()
            score_head.save_whole(self.model, folder, self.pad_token_id)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        load_head(model or self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load_head(self.model, Path(str(self.state.best_model_checkpoint)))

    def trained_module(self) -> torch.nn.Module:
        """The module as it was, with other weights."""
        self.fused.undo()
        part_rows(self.model)
        self.joined, self.data_collator = False, replace(self.data_collator, joined=False)
        return super().trained_module()


def has_dropout(module: torch.nn.Module) -> bool:
    """Whether anything is dropped in training."""
    return any(
        (isinstance(part, torch.nn.Dropout) and part.p > 0) or getattr(part, "attention_dropout", 0.0)
        for part in module.modules()
    )


def load_head(model: Any, folder: Path) -> bool:
    """Take the head that is saved in `folder`, if there is one of the kind of the model's own."""
    if isinstance(value_head.head_of(model), value_head.ScoreHead):
        if score_head.saved_score(folder) is None:
            return False
        score_head.load(model, folder)
        return True
    if not value_head.has_saved(folder):
        return False
    value_head.load(model, folder)
    return True
