"""What the trainers of all stages share: `transformers.Trainer` with losses normalised over the global batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from tkernel.errors import SlotError, TkError
from tkernel_plugins.data.streaming import EncodedStream, Position
from tkernel_plugins.training.checkpoint_writing import write_checkpoint
from tkernel_plugins.training.checkpoints import fitting
from tkernel_plugins.training.interrupt import (
    EvaluationStopped,
    Interrupt,
    Stopped,
    leave_signals_to_the_parent,
)
from tkernel_plugins.training.joining import BY_LENGTH
from tkernel_plugins.training.losses import token_loss
from tkernel_plugins.training.meter import Meter
from tkernel_plugins.training.places import non_finite_loss, non_finite_weight
from tkernel_plugins.training.position import KEY, EndlessSamples, save_position, stream_loader
from tkernel_plugins.training.sampling import LengthGrouped, Lengths, lengths_of
from tkernel_plugins.training.sums import Sums, read_sums, save_sums

Batch = dict[str, Any]


class StageTrainer(Trainer):
    """Sampling, streams, counting, checkpoints; a stage's trainer adds `batch_loss`, and perhaps `items_of`.

    The loss of a step is the sum of its micro-batches' `batch_loss`, each of which is divided by the items
    (pairs, completions, tokens) of the whole step on all devices, so it does not depend on how the batch
    is split. A batch's `origin`, where each sample came from, is named in an error about a non-finite loss;
    `tokens`, how many there are without padding, is for batches whose attention mask does not say. Neither
    is given to the model.

    A `train_dataset` that is an `EncodedStream` is trained on without end, from `train_dataset.start` on.

    Args:
        optimizer: function of model and arguments that returns a `torch.optim.Optimizer`.
        meter: filled while training.

    `interrupt`, if it is set, is asked after each step whether to stop; `abandoned` are checkpoints of another
    run in `output_dir`, which are deleted when the first one of this run is whole. `in_epoch` is False while
    an epoch ends.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        meter: Meter | None = None,
        **kwargs: Any,
    ) -> None:
        self.use_cache = getattr(getattr(model, "config", None), "use_cache", None)
        self.position = Position()
        if isinstance(kwargs.get("train_dataset"), EncodedStream):
            share = (args.per_device_train_batch_size, args.process_index, args.world_size)
            kwargs["train_dataset"] = EndlessSamples(kwargs["train_dataset"], *share)
            args.ignore_data_skip = True  # the stream itself begins where the checkpoint was
        # With a loss function given, transformers leaves the division by accumulation steps to us.
        super().__init__(model, args, compute_loss_func=token_loss, **kwargs)
        self.make_optimizer = optimizer
        self.meter = meter or Meter()
        self.interrupt: Interrupt | None = None
        self.abandoned: tuple[Path, ...] = ()
        self.sums = Sums()
        self._step_loss = torch.zeros((), device=args.device)
        self._step_tokens = 0
        self._origins: list[Any] = []
        self._evaluated = torch.zeros(2, dtype=torch.float64)
        self._evaluation_sums = Sums()
        self._saved_at = 0
        self.in_epoch = True

    # -- what a stage's trainer defines ------------------------------------------------------------

    def batch_loss(
        self, model: torch.nn.Module, inputs: Batch, items: torch.Tensor
    ) -> tuple[torch.Tensor, Any]:
        """The micro-batch's share of the step's loss, and what `note_evaluation` may look at.

        Args:
            inputs: the batch without `origin` and `tokens`.
            items: `items_of` of all micro-batches and devices of the step, never 0; a scalar.
        """
        raise TypeError(f"{type(self).__name__} defines no batch_loss")

    def items_of(self, batch: Batch) -> torch.Tensor:
        """What the loss is the mean of; without more, the samples of the micro-batch. A scalar."""
        return torch.tensor(len(batch["origin"]))

    def trained_items_of(self, batch: Batch) -> torch.Tensor:
        """The same for a micro-batch of training, where a stage counts otherwise."""
        return self.items_of(batch)

    def note(self, name: str, total: torch.Tensor | float, count: torch.Tensor | float = 1) -> None:
        """Count towards a mean that the next log (in evaluation: the metrics) has under `name`."""
        sums = self.sums if self.model.training else self._evaluation_sums
        sums.add(name, float(total), float(count))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The contributed optimizer if there is one, else that of `optim`."""
        if self.optimizer is None and self.make_optimizer is not None:
            self.optimizer = self.make_optimizer(self.model, self.args)
            if not isinstance(self.optimizer, torch.optim.Optimizer):
                made = f"{self.make_optimizer!r} made a {type(self.optimizer).__name__}"
                raise SlotError(f"{made}, not an optimizer", hint="Return a `torch.optim.Optimizer`.")
        return super().create_optimizer(*args, **kwargs)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        with fitting(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with fitting(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    # -- the order of samples ----------------------------------------------------------------------

    def epoch_size(self) -> int:
        """Samples of one epoch on all devices."""
        return len(self.train_dataset)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = self.args.train_sampling_strategy
        if strategy not in BY_LENGTH or not isinstance(dataset, Dataset):
            return super()._get_train_sampler(train_dataset)
        if strategy == "batch_rebalance":
            return super()._get_train_sampler(Lengths(dataset))
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGrouped(lengths_of(dataset), step, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        by_length = self.args.train_sampling_strategy in BY_LENGTH and isinstance(eval_dataset, Dataset)
        return super()._get_eval_sampler(Lengths(eval_dataset) if by_length else eval_dataset)

    # -- streams -----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        """That of transformers; of a stream, its own."""
        if isinstance(self.train_dataset, EndlessSamples):
            self.train_dataset.batch_size = self._train_batch_size
            return stream_loader(self.train_dataset, self.data_collator, self.args)
        loader = super().get_train_dataloader()
        loader.worker_init_fn = partial(leave_signals_to_the_parent, then=loader.worker_init_fn)
        return loader

    # -- the loss ----------------------------------------------------------------------------------

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step, and the items in all of them on all devices."""
        self.meter.start_step()
        batches = list(islice(epoch_iterator, num_batches))
        for batch in batches:
            self.position = batch.pop(KEY, self.position)
        self._origins = [origin for batch in batches for origin in batch.get("origin", ())]
        total = sum((self.trained_items_of(b).float().cpu() for b in batches), torch.zeros(())).to(device)
        self._step_loss = torch.zeros((), device=device)
        self._step_tokens = sum(_tokens(batch) for batch in batches)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            total = self.accelerator.gather(total).sum()
        return batches, total

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The micro-batch's share of the step's loss.

        Raises:
            NonFiniteLoss: naming the samples of the micro-batch.
        """
        items = num_items_in_batch if num_items_in_batch is not None else self.items_of(dict(inputs))
        items = torch.where(items > 0, items, 1)  # a batch without items has loss 0, not 0 / 0
        kept = {name: value for name, value in inputs.items() if name not in ("tokens", "origin")}
        loss, outputs = self.batch_loss(model, kept, items)
        if not torch.isfinite(loss):
            step, origin = self.state.global_step + 1, inputs.get("origin", ())
            raise non_finite_loss(loss.item(), step, origin, training=model.training)
        if model.training:
            self._step_loss += loss.detach()
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        return (loss, outputs) if return_outputs else loss

    def finish_step(self) -> None:
        """Called at the end of each step: what was trained on goes into `meter` and the state."""
        tokens, loss = self._step_tokens, self._step_loss
        if self.args.world_size > 1:
            counted = torch.tensor([float(tokens), float(loss)], device=self.args.device)
            gathered = self.accelerator.gather(counted.unsqueeze(0)).sum(0)
            tokens, loss = int(gathered[0]), gathered[1]
        self.meter.end_step(float(loss), tokens)
        # Not transformers' own sum, which a run that goes on from between two logs does not have.
        self.sums.add("loss", float(loss), 1)
        self.sums.loss += float(loss)
        if isinstance(self.train_dataset, EndlessSamples):
            self.state.epoch = float(self.position.epoch)  # how long a pass is, nobody knows
        if self.args.include_num_input_tokens_seen == "no":
            self.state.num_input_tokens_seen += tokens

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in transformers, with the means of what was noted since the last log, also before the run was
        stopped; `train_loss` is the mean of the whole run's steps."""
        if "loss" in logs:
            logs |= self._means(self.sums)
        elif "train_loss" in logs:
            self.sums.noted.pop("loss", None)
            logs |= self._means(self.sums)
            if self.sums.whole and self.state.global_step:
                logs["train_loss"] = self.sums.loss / self.state.global_step
        super().log(logs, start_time)

    def _means(self, counted: Sums) -> dict[str, float]:
        noted, counted.noted = counted.noted, {}
        names = sorted(noted)
        sums = torch.tensor([noted[name] for name in names], dtype=torch.float64, device=self.args.device)
        if self.args.world_size > 1 and names:
            sums = self.accelerator.gather(sums.unsqueeze(0)).sum(0)
        pairs = zip(names, sums.tolist(), strict=True)
        return {name: total / count for name, (total, count) in pairs if count}

    # -- evaluation --------------------------------------------------------------------------------

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As in transformers, with the loss, and what was noted, as the mean over all items of the dataset."""
        self._evaluated = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        self._evaluation_sums = Sums()
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # a loader draws a number, and dropout must not notice
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        sums = self._evaluated
        if self.args.world_size > 1:
            sums = self.accelerator.gather(sums.unsqueeze(0)).sum(0)
        loss, items = sums.tolist()
        output.metrics.pop(f"{metric_key_prefix}_model_preparation_time", None)
        output.metrics[f"{metric_key_prefix}_loss"] = loss / max(items, 1e-9)
        for name, value in self._means(self._evaluation_sums).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Loss of one evaluation batch; sums are kept for `evaluation_loop`."""
        inputs = self._prepare_inputs(dict(inputs))
        items = self.items_of(inputs).to(self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=items)
            self.note_evaluation(inputs, outputs)
        self._evaluated += torch.stack([loss * items, items.to(loss)]).to(torch.float64)
        return loss.detach(), None, None

    def note_evaluation(self, inputs: Batch, outputs: Any) -> None:
        """Count what evaluation reports beside the loss, with `note`; without more, nothing."""

    # -- saving ------------------------------------------------------------------------------------

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        if self.args.metric_for_best_model is not None and f"eval_{name}" not in metrics:
            known = ", ".join(sorted(key for key, value in metrics.items() if key.startswith("eval_")))
            message = f"`metric_for_best_model: {self.args.metric_for_best_model}` is not among the metrics"
            raise TkError(message, hint=f"These are evaluated: {known}.")
        return bool(super()._determine_best_metric(metrics, trial))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        self.require_finite()
        self._saved_at = self.state.global_step
        write_checkpoint(self, Path(self._get_output_dir(trial)))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        save_sums(Path(output_dir), self.sums, self.args.process_index)
        if isinstance(self.train_dataset, EndlessSamples) and self.args.should_save:
            save_position(Path(output_dir), self.position)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but the checkpoint of an epoch's last step comes after what the epoch ends with.

        Raises:
            Stopped: a signal asked for it; there is a checkpoint of this step.
        """
        ends_epoch = self.in_epoch and self.state.epoch == int(self.state.epoch or 0)
        saves_later = ends_epoch and self.control.should_save
        self.control.should_save = self.control.should_save and not saves_later
        try:
            super()._maybe_log_save_evaluate(*args, **kwargs)
        except EvaluationStopped:
            self.sums.evaluation_due = True
        if ends_epoch:
            self.control.should_save = self.control.should_save or saves_later
        elif self._must_stop() and self.state.global_step < self.state.max_steps:
            if self._saved_at != self.state.global_step:
                self._save_checkpoint(self.model)
            raise Stopped(self.state.global_step)

    def _must_stop(self) -> bool:
        """Whether a signal has reached any process."""
        asked = self.interrupt is not None and self.interrupt.asked is not None
        if self.args.world_size > 1:
            told = torch.tensor([float(asked)], device=self.args.device)
            return bool(self.accelerator.gather(told).sum() > 0)
        return asked

    def require_finite(self) -> None:
        """Refuse to save what the next step could not use.

        Raises:
            NonFiniteLoss: a trained weight is NaN or infinite; the samples of the last step are named.
        """
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        spoiled = next((name for name, p in trained if not torch.isfinite(p).all()), None)
        if spoiled is not None:
            raise non_finite_weight(spoiled, self.state.global_step, self._origins)

    def go_on(self, checkpoint: Path) -> None:
        """Take over what was added up before the checkpoint."""
        self.sums = read_sums(checkpoint, self.args.process_index)

    def evaluate_what_is_due(self) -> None:
        """Make the evaluation that a signal ended before the checkpoint."""
        if not self.sums.evaluation_due:
            return
        self.sums.evaluation_due = False
        is_best = self._determine_best_metric(self._evaluate(None, None), None)
        if is_best and self.args.save_strategy == SaveStrategy.BEST:
            self._save_checkpoint(self.model)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """As in transformers, but with the model's own `use_cache` in its config, and with PEFT kept from
        asking the hub about the base model's vocabulary."""
        self._set_use_cache(self.use_cache)
        if hasattr(self.model, "peft_config"):
            # Embeddings that grew are modules of the adapter, so PEFT need not guess.
            self.model.save_pretrained = partial(self.model.save_pretrained, save_embedding_layers=False)
        try:
            super()._save(output_dir, state_dict)
            if self.args.should_save:
                # A pickle that nothing of ours reads; the lock and the card say what the arguments were.
                Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)
        finally:
            self._set_use_cache(self.args.use_cache)
            self.model.__dict__.pop("save_pretrained", None)

    def trained_module(self) -> torch.nn.Module:
        """The module without what training wrapped around it (DDP, autocast), for what comes after."""
        self._set_use_cache(self.use_cache)
        return self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def _set_use_cache(self, value: bool | None) -> None:
        if value is not None:
            self.model.config.use_cache = value


def _tokens(batch: Batch) -> int:
    """Tokens of a micro-batch without padding."""
    if "tokens" in batch:
        return int(batch["tokens"])
    mask = batch.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return int(batch["input_ids"].numel())
    return int(mask.ne(0).sum())
