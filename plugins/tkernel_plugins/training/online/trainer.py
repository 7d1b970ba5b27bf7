"""The loop that `grpo`, `rloo` and `ppo` share: generate, reward, and train on it for some steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import TrainingArguments

from tkernel.errors import DataError
from tkernel.types.engine import Reply, Sampling
from tkernel.types.requests import StageRequest
from tkernel_plugins.data.collator_prompts import PromptCollator
from tkernel_plugins.training.errors import CheckpointError
from tkernel_plugins.training.online.completions import CompletionLog
from tkernel_plugins.training.online.options import OnlineOptions
from tkernel_plugins.training.online.prompts import Prompt, PromptOrder, read_prompt
from tkernel_plugins.training.online.rewards import Rewards
from tkernel_plugins.training.online.samples import Sample, batch_of, completion_logits, logps_of, rows_of
from tkernel_plugins.training.reference_logps import disable_dropout
from tkernel_plugins.training.saving import padding_id
from tkernel_plugins.training.stage_trainer import Batch, StageTrainer

STATE = "rollout-{rank}.pt"
"""What a checkpoint holds of a rollout that was begun, for each process."""


class Reference:
    """The model that the policy is held to: another module, or the policy without its adapters."""

    def __init__(self, module: torch.nn.Module | None, policy: torch.nn.Module) -> None:
        self.module, self.policy = module, policy

    def __enter__(self) -> torch.nn.Module:
        self._context: AbstractContextManager[Any] = nullcontext()
        if self.module is None:
            self._context = self.policy.disable_adapter()
        self._context.__enter__()
        return self.module if self.module is not None else self.policy

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def reference_of(request: StageRequest, device: torch.device) -> Reference:
    """The reference model of a run: `ref_model`, else the policy as it is before the first step.

    A new adapter computes nothing at first, so without it the policy is its own reference; otherwise there
    is a second copy.
    """
    policy = request.bundle.module
    is_new = hasattr(policy, "peft_config") and not request.settings.get("adapter_name_or_path")
    if is_new and not getattr(request.options, "ref_model", None):
        return Reference(None, policy)
    assert request.load_model is not None
    module = request.load_model("reference").module.to(device).eval().requires_grad_(False)
    return Reference(module, policy)


class OnlineTrainer(StageTrainer):
    """Trains on completions of its own; a subclass adds `experience`, `batch_loss` and perhaps `items_of`.

    A *rollout* is what one generation gives: `steps` optimizer steps' worth of completions, which are
    trained on `iterations` times. It is made for all of them at once, so it does not depend on how a step is
    split into micro-batches; and its prompts and random numbers depend on the step alone, so a resumed run
    makes the same one. What is left of a rollout is part of a checkpoint.

    Args:
        request: the stage's request; its engine generates, with the policy's weights of the moment.
        rewards: the judges.
        sampling: how completions are drawn.
        generations: completions of each prompt.
        eval_generations: the same in evaluation.
        steps: optimizer steps of a rollout.
        iterations: how often a rollout is trained on.
        train_dataset: samples of `PromptEncoder`.
    """

    def __init__(
        self,
        args: TrainingArguments,
        *,
        request: StageRequest,
        rewards: Rewards,
        sampling: Sampling,
        generations: int = 1,
        eval_generations: int = 1,
        steps: int = 1,
        iterations: int = 1,
        reference: Reference | None = None,
        model: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self.request, self.options = request, request.options
        self.padding = padding_id(request.bundle.tokenizer)
        super().__init__(
            model if model is not None else request.bundle.module,
            args,
            data_collator=PromptCollator(self.padding),
            **kwargs,
        )
        options = request.options if isinstance(request.options, OnlineOptions) else OnlineOptions()
        if options.disable_dropout:
            disable_dropout(self.model)
        self.rewards, self.sampling, self.reference = rewards, sampling, reference
        self.generations, self.eval_generations = generations, eval_generations
        self.steps, self.iterations = steps, iterations
        self.per_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.order: PromptOrder | None = None
        if self.train_dataset is not None:
            seed = args.seed if args.data_seed is None else args.data_seed
            shuffled = args.train_sampling_strategy != "sequential"
            wanted = steps * self.per_step * args.world_size // generations
            self.order = PromptOrder(len(self.train_dataset), wanted, seed, shuffled)
        self.completion_log = CompletionLog(Path(args.output_dir))
        self.logged = options.logged_completions
        self.samples: list[Sample] = []
        self._evaluated_batches = 0

    # -- what a stage's trainer defines ------------------------------------------------------------

    def experience(
        self, samples: list[Sample], rewards: torch.Tensor, replies: Sequence[Reply], generations: int
    ) -> None:
        """Add to the samples of a rollout what `batch_loss` needs, and `note` what is reported.

        Args:
            samples: those of this process, the completions of one prompt next to each other.
            rewards: (samples), NaN for one that no judge has judged.
            generations: completions of each prompt.
        """
        raise TypeError(f"{type(self).__name__} defines no experience")

    def state_of(self) -> dict[str, Any]:
        """What else a checkpoint keeps: numbers and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_of` gave."""

    def items_of(self, batch: Batch) -> torch.Tensor:
        """The learned tokens of the micro-batch."""
        return batch["mask"].sum()

    # -- rollouts ----------------------------------------------------------------------------------

    def epoch_size(self) -> int:
        """Completions that are trained on in one epoch, each as often as it is."""
        assert self.order is not None
        rollout = self.steps * self.iterations * self.per_step * self.args.world_size
        return self.order.rollouts_per_epoch * rollout

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One that counts steps: what a step trains on is in its rollout."""
        places = TensorDataset(torch.arange(self.epoch_size()))
        loader: DataLoader[Any] = self.accelerator.prepare(
            DataLoader(places, batch_size=self._train_batch_size)
        )
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """The micro-batches of one step out of the current rollout, or of a new one."""
        self.model.train()  # an evaluation may have come before
        count = len(list(islice(epoch_iterator, num_batches)))
        number, place = divmod(self.state.global_step, self.steps * self.iterations)
        if place == 0 or not self.samples:
            assert self.order is not None
            wanted = self.order.rollout(number)
            share = len(wanted) // self.args.world_size
            own = wanted[self.args.process_index * share :][:share]
            rows = [self.train_dataset[index] for index in own]
            self.samples = self.rollout(rows, self.generations, "train", number)
        iteration, step = divmod(place, self.steps)
        chosen = self._permuted(number, iteration)[step * self.per_step :][: self.per_step]
        size = self.args.per_device_train_batch_size
        batches = [
            batch_of([self.samples[i] for i in chosen[start : start + size]], self.padding, device)
            for start in range(0, count * size, size)
        ]
        return super().get_batch_samples(iter(batches), len(batches), device)

    def _permuted(self, number: int, iteration: int) -> list[int]:
        """The order in which an iteration goes through a rollout of several steps."""
        if iteration == 0 or self.steps == 1:
            return list(range(len(self.samples)))
        generator = torch.Generator().manual_seed(self._seed("order", number, iteration))
        return torch.randperm(len(self.samples), generator=generator).tolist()

    def rollout(
        self, rows: Sequence[Mapping[str, Any]], generations: int, what: str, number: int
    ) -> list[Sample]:
        """Generate, reward and look back: the samples of a rollout.

        Args:
            rows: samples of `PromptEncoder`.
            what: `train` or `eval`; with `number` it decides about the random numbers.
        """
        prompts = [read_prompt(row, self.request.renderer) for row in rows for _ in range(generations)]
        seed = self._seed(what, number, self.args.process_index)
        replies = self.generate(prompts, seed)
        judged = self.rewards(prompts, replies, self.state, seed)
        total = self.rewards.total(judged)
        samples: list[Sample] = [
            {
                "prompt": list(prompt.ids),
                "completion": list(reply.token_ids),
                "learned": True,
                "origin": dict(prompt.origin),
            }
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        self._note_rollout(judged, total, replies)
        self.experience(samples, total, replies, generations)
        if what == "train" and self.logged and self.is_world_process_zero():
            lines = self._lines(prompts, replies, judged, total)
            self.completion_log.write(self.state.global_step, lines[: self.logged])
        return samples

    def generate(self, prompts: Sequence[Prompt], seed: int) -> list[Reply]:
        """One completion for each prompt, by the engine, with the policy's weights of now."""
        assert self.request.open_engine is not None
        module = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        bundle = self.request.bundle.replace(module=self.generating(module))
        engine = self.request.open_engine(bundle, seed)
        try:
            replies = engine.reply([prompt.conversation for prompt in prompts], self.sampling)
        finally:
            engine.close()
        for prompt, reply in zip(prompts, replies, strict=True):
            if not reply.token_ids:
                raise DataError(
                    f"the engine gave an empty completion to the prompt of {dict(prompt.origin)}",
                    hint="Is there room for one? Shorten the prompt, or lower `cutoff_len`.",
                )
        return replies

    def generating(self, module: Any) -> Any:
        """The module that the engine generates with."""
        return module

    @torch.no_grad()
    def score(
        self,
        samples: Sequence[Sample],
        model: torch.nn.Module,
        function: Callable[[torch.nn.Module, Batch], torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """A value of each token of each completion, in eval mode; without a function, its log-probability."""
        function = function or self._logps
        training = [part for part in model.modules() if part.training]
        model.eval()
        found: list[torch.Tensor] = []
        try:
            for start in range(0, len(samples), self.args.per_device_train_batch_size):
                some = samples[start : start + self.args.per_device_train_batch_size]
                batch = batch_of(some, self.padding, self.args.device)
                with self.compute_loss_context_manager():
                    found += rows_of(function(model, batch), batch, some)
        finally:
            for part in training:
                part.training = True
        return found

    def _logps(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return logps_of(completion_logits(model, batch), batch, self.temperature)

    @property
    def temperature(self) -> float:
        """What divides the logits of policy and reference."""
        return self.sampling.temperature

    def _seed(self, what: str, *numbers: int) -> int:
        text = " ".join(map(str, (self.args.seed, what, *numbers)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1

    def _note_rollout(self, judged: torch.Tensor, total: torch.Tensor, replies: Sequence[Reply]) -> None:
        for name, column in zip(self.rewards.names, judged.unbind(1), strict=True):
            given = column[~column.isnan()]
            self.note(f"rewards/{name}/mean", given.sum(), len(given))
            self.note(f"rewards/{name}/std", given.std(correction=0) if len(given) else 0.0)
        given = total[~total.isnan()]
        self.note("reward", given.sum(), len(given))
        self.note("reward_std", given.std(correction=0) if len(given) else 0.0)
        lengths = [len(reply.token_ids) for reply in replies]
        self.note("completions/mean_length", sum(lengths), len(lengths))
        cut = sum(reply.finish_reason == "length" for reply in replies)
        self.note("completions/clipped_ratio", cut, len(replies))
        for name, values in self.rewards.metrics.items():
            self.note(name, sum(values), len(values))

    def _lines(
        self, prompts: Sequence[Prompt], replies: Sequence[Reply], judged: torch.Tensor, total: torch.Tensor
    ) -> list[dict[str, Any]]:
        lines = []
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            given = dict(zip(self.rewards.names, judged[row].tolist(), strict=True))
            further = {name: values[row] for name, values in self.rewards.extra.items() if row < len(values)}
            line = {"prompt": prompt.shown, "completion": reply.text, "reward": total[row].item()}
            line |= {"rewards": given, "finish_reason": reply.finish_reason, "origin": dict(prompt.origin)}
            lines.append({**line, **further})
        return lines

    # -- evaluation --------------------------------------------------------------------------------

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in `StageTrainer`; every evaluation draws the same random numbers."""
        self._evaluated_batches = 0
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Generate for the prompts of a batch; the reward is what counts, and the loss that of training."""
        self.model.eval()
        rows = [{"row": r, "origin": o} for r, o in zip(inputs["row"], inputs["origin"], strict=True)]
        samples = self.rollout(rows, self.eval_generations, "eval", self._evaluated_batches)
        self._evaluated_batches += 1
        batch = batch_of(samples, self.padding, self.args.device)
        return super().prediction_step(model, batch, prediction_loss_only, ignore_keys)

    # -- checkpoints -------------------------------------------------------------------------------

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        is_done = self.state.global_step % (self.steps * self.iterations) == 0
        state = {"samples": [] if is_done else self.samples, "own": self.state_of()}
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        torch.save(state, Path(output_dir, STATE.format(rank=self.args.process_index)))

    def go_on(self, checkpoint: Path) -> None:
        """Take over what is left of the rollout, too.

        Raises:
            CheckpointError: another stage has saved the checkpoint.
        """
        super().go_on(checkpoint)
        path = Path(checkpoint, STATE.format(rank=self.args.process_index))
        if not path.is_file():
            raise CheckpointError(
                f"the checkpoint {checkpoint} holds no {path.name}: another stage saved it, with `save_only_model`, "
                "or on another number of devices",
                hint="Resume with the options of the run that saved it, or start afresh in another `output_dir`.",
            )
        state = torch.load(path, weights_only=True)
        self.samples = state["samples"]
        self.restore(state["own"])
