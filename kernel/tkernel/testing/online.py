"""The contract of stage plugins that learn from completions which the model makes while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.contract import Contract, find_plugin
from tkernel.testing.stage_runs import BASE, losses, moved, recorder
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message, message_to_dict
from tkernel.types.dataset import DatasetEntry, DatasetReport, LoadedDataset
from tkernel.types.engine import Engine, Prompt, Reply, Sampling
from tkernel.types.requests import EngineRequest, StageRequest
from tkernel.types.stage import StageResult

ASKED = ("Hi", "Who runs the inn?", "How much is 12 and 12, and in words?", "Where?")


def score(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """A reward: the share of ids below 128."""
    return [sum(token < 128 for token in ids) / len(ids) for ids in completion_ids]


def affine(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Three times that, and seven."""
    return [3 * value + 7 for value in score(completion_ids)]


def shifted(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Seven more than that."""
    return [value + 7 for value in score(completion_ids)]


def constant(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The same for all."""
    return [1.0 for _ in completion_ids]


class Recorded:
    """An engine that remembers what it was asked, what it said, and the weights that it was given."""

    def __init__(self, engine: Engine, bundle: ModelBundle, seen: list[Any]) -> None:
        self.engine, self.seen = engine, seen
        self.weights = {name: value.detach().clone() for name, value in bundle.module.named_parameters()}

    def reply(
        self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None
    ) -> list[Reply]:
        """Ask the engine."""
        replies = self.engine.reply(conversations, sampling)
        self.seen.append((tuple(conversations), replies, self.weights))
        return replies

    def stream(self, conversations: Sequence[Conversation | Prompt], sampling: Sampling | None = None) -> Any:
        """Ask the engine, whole replies at once."""
        from tkernel.types.engine import Delta

        for index, reply in enumerate(self.reply(conversations, sampling)):
            yield Delta(index, reply.text, reply.token_ids, reply.finish_reason)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


class OnlineStageContract(Contract):
    """Rollouts, updates and resuming of a stage that generates, on a tiny model in float64.

    A stage whose rewards do not come from `reward_funcs` overrides `rewarded`.
    """

    kind = "stage"
    arguments: ClassVar[Mapping[str, Any]] = {}
    """Training arguments on top of `BASE`."""
    compares: ClassVar[bool] = True
    """Whether completions of one prompt are compared, so that equal rewards teach nothing."""
    ignores: ClassVar[str] = "affine"
    """The change of all rewards that changes nothing: `affine`, `shifted`, or none."""
    reuse: ClassVar[Mapping[str, Any]] = {}
    """Options with which a rollout lasts for more than two steps, so that a checkpoint falls into it."""
    tolerance: ClassVar[float] = 1e-9
    """Difference of weights that rounding alone may make."""

    def bundle(self) -> ModelBundle:
        """A fresh tiny model in float64, the same one each time, its last layer frozen."""
        bundle = tiny.make_bundle()
        bundle.module.double()
        for name, parameter in bundle.module.named_parameters():
            parameter.requires_grad_("layers.1" not in name)
        bundle.module.train()
        return bundle

    def rewarded(self, judge: str) -> Mapping[str, Any]:
        """Options with which the function of that name in this module rewards."""
        return {"reward_funcs": (f"tkernel.testing.online:{judge}",)}

    def rewards_of(self, tokenizer: Any, replies: Sequence[Reply]) -> list[float]:
        """What the judge `score` gives for replies to one prompt, but for a constant."""
        return score([reply.token_ids for reply in replies])

    def rows(self, asked: Sequence[str]) -> list[dict[str, Any]]:
        """Canonical rows of prompts; the last has a reply, which is no part of it."""
        rows = []
        for position, text in enumerate(asked):
            messages = [Message("user", text)]
            if position == len(asked) - 1:
                messages.append(Message("assistant", "Behind the inn."))
            origin = {"file": "contract.jsonl", "row": position, "line": position + 1}
            given = {"messages": [message_to_dict(message) for message in messages], "tools": ""}
            rows.append({**given, "columns": "{}", "origin": origin})
        return rows

    def run(
        self,
        output_dir: Path,
        *,
        train: Sequence[str] = ASKED,
        evaluate: Sequence[str] = (),
        judge: str = "score",
        options: Mapping[str, Any] | None = None,
        slots: Mapping[str, Any] | None = None,
        seed: int = 42,
        **arguments: Any,
    ) -> tuple[StageResult, list[dict[str, float]], list[Any]]:
        """Call the hook: its result, the logs, and for each call of an engine what was asked, said, and with
        which weights."""
        import datasets

        bundle, told = self.bundle(), recorder()
        seen: list[Any] = []
        renderer, engine = chatml_renderer(bundle.tokenizer), find_plugin("engine", "huggingface").object

        def open_engine(given: ModelBundle, seed: int = seed) -> Recorded:
            request = EngineRequest(renderer=renderer, bundle=given, options=engine.Options(), seed=seed)
            return Recorded(engine.generate(request), given, seen)

        def loaded(asked: Sequence[str]) -> tuple[LoadedDataset, ...]:
            if not asked:
                return ()
            table = datasets.Dataset.from_list(self.rows(asked))
            entry, report = DatasetEntry("contract", "contract.jsonl"), DatasetReport("contract")
            return (LoadedDataset(entry, table, report),)

        output_dir.mkdir(exist_ok=True)
        request = StageRequest(
            bundle,
            renderer,
            train=loaded(train),
            eval=loaded(evaluate),
            options=self.bound_options(**self.rewarded(judge), **(options or {})),
            arguments={**BASE, "output_dir": str(output_dir), **self.arguments, **arguments},
            output_dir=output_dir,
            seed=seed,
            load_model=lambda role: self.bundle(),
            open_engine=open_engine,
        )
        request.slots.put("callbacks", told, by="contract")
        for name, value in (slots or {}).items():
            request.slots.put(name, value, by="contract")
        result: StageResult = self.provider.train_stage(request)
        assert request.slots.unread() == {}
        return result, told.logs, seen

    def test_nothing_to_train_on_is_an_error(self, tmp_path: Path) -> None:
        """Training without a dataset raises a TkError, not whatever fails later."""
        with pytest.raises(TkError):
            self.run(tmp_path, train=(), max_steps=1)

    def test_the_engine_is_asked_with_the_prompts_alone(self, tmp_path: Path) -> None:
        """Every conversation that it gets ends with a question of the data, and all of them are asked."""
        size: dict[str, Any] = {"per_device_train_batch_size": 16, "num_train_epochs": 1}
        _, _, seen = self.run(tmp_path, **size)
        asked = [conversation.messages[-1] for conversations, *_ in seen for conversation in conversations]
        assert {message.role for message in asked} == {"user"}
        assert {message.content for message in asked} == set(ASKED)

    def test_the_policy_of_the_moment_generates(self, tmp_path: Path) -> None:
        """The first rollout has the weights from before training, and the next one those after its steps."""
        import torch

        result, _, seen = self.run(tmp_path, max_steps=8, per_device_train_batch_size=4)
        fresh, trained = self.bundle(), dict(result.bundle.module.named_parameters())
        assert len(seen) > 1
        first, last = seen[0][2], seen[-1][2]
        for name, value in fresh.module.named_parameters():
            assert torch.equal(first[name], value), name
            if value.requires_grad:
                assert not torch.equal(last[name], value), name
                assert not torch.equal(last[name], trained[name]), name

    def test_better_completions_become_more_probable(self, tmp_path: Path) -> None:
        """After a small step of plain SGD, the change of log-probabilities and the rewards agree."""
        import torch

        def sgd(model: Any, _: Any) -> Any:
            return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)

        size: dict[str, Any] = {"per_device_train_batch_size": 8, "max_steps": 1, "learning_rate": 1e-3}
        result, _, seen = self.run(tmp_path, train=ASKED[:1], slots={"optimizer": sgd}, **size)
        conversations, replies, _ = seen[0]
        judged = self.rewards_of(result.bundle.tokenizer, replies)
        rewards = torch.tensor(judged, dtype=torch.float64)
        assert rewards.std() > 0
        prompt = chatml_renderer(result.bundle.tokenizer).prompt_ids(conversations[0])
        fresh = self.bundle()
        change = torch.stack(
            [
                _logp(result.bundle.module, prompt, reply.token_ids)
                - _logp(fresh.module, prompt, reply.token_ids)
                for reply in replies
            ]
        )
        assert ((rewards - rewards.mean()) * change).sum() > 0

    def test_equal_rewards_teach_nothing(self, tmp_path: Path) -> None:
        """Where completions of one prompt are compared and all are worth the same, no weight moves."""
        if not self.compares:
            pytest.skip("the stage compares with values, not with other completions")
        result, _, _ = self.run(tmp_path, judge="constant", max_steps=2, per_device_train_batch_size=8)
        assert moved(self.bundle(), result.bundle) == []

    def test_a_change_of_all_rewards_alike_changes_nothing(self, tmp_path: Path) -> None:
        """With rewards 3 r + 7 (or r + 7, as the stage promises) the weights are those with r."""
        import torch

        if not self.ignores:
            pytest.skip("the suite names no change of all rewards that the stage ignores (`ignores`)")
        # A plain optimizer: Adam would hide a wrong scale.
        slots = {"optimizer": lambda model, _: torch.optim.SGD(model.parameters(), lr=1e-2)}
        size: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2}
        plain, _, _ = self.run(tmp_path / "plain", slots=slots, **size)
        other, _, _ = self.run(tmp_path / "other", slots=slots, judge=self.ignores, **size)
        distance = _distance(plain.bundle, other.bundle)
        assert distance <= 2e-3 * _distance(plain.bundle, self.bundle())

    def test_the_split_into_micro_batches_does_not_matter(self, tmp_path: Path) -> None:
        """1 x 8, 4 x 2 and 8 x 1 completions and accumulation steps give the same completions and weights."""
        results = []
        for size in (1, 4, 8):
            arguments: dict[str, Any] = {
                "per_device_train_batch_size": size,
                "gradient_accumulation_steps": 8 // size,
            }
            results.append(self.run(tmp_path / str(size), max_steps=2, **arguments))
        for other in results[1:]:
            ids = [
                [reply.token_ids for _, replies, _ in seen for reply in replies]
                for *_, seen in (results[0], other)
            ]
            assert ids[0] == ids[1]
            assert _distance(results[0][0].bundle, other[0].bundle) < self.tolerance

    def test_frozen_parameters_do_not_move(self, tmp_path: Path) -> None:
        """Parameters that ask for no gradient are equal bit by bit; the others are trained."""
        fresh = self.bundle()
        result, _, _ = self.run(tmp_path, max_steps=3, per_device_train_batch_size=8)
        trained = [name for name, p in fresh.module.named_parameters() if p.requires_grad]
        assert moved(fresh, result.bundle) == trained

    def test_resuming_reproduces_the_uninterrupted_run(self, tmp_path: Path) -> None:
        """Four steps, and two steps, a checkpoint and two more give the same losses and the same bits, also
        where the checkpoint falls into a rollout."""
        arguments: dict[str, Any] = {"max_steps": 4, "per_device_train_batch_size": 4}
        saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "lr_scheduler_type": "linear"}
        runs: tuple[tuple[str, Mapping[str, Any]], ...] = (("plain", {}), ("reused", self.reuse))
        for name, options in runs:
            whole, logs, _ = self.run(tmp_path / name, options=options, **arguments, **saving)
            checkpoint = str(tmp_path / name / "checkpoint-2")
            again: dict[str, Any] = {"options": options, "resume_from_checkpoint": checkpoint}
            resumed, rest, _ = self.run(tmp_path / f"{name}-resumed", **again, **arguments, **saving)
            assert losses(rest)[-2:] == losses(logs)[2:], name
            assert moved(whole.bundle, resumed.bundle) == [], name

    def test_the_seed_decides_everything(self, tmp_path: Path) -> None:
        """The same seed gives the same completions and bits, whatever the global generators' state; another
        one gives others."""
        import random

        import torch

        results = []
        for state, seed in ((1, 42), (2, 42), (2, 43)):
            torch.manual_seed(state)
            random.seed(state)
            size: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4}
            results.append(self.run(tmp_path / f"{state}{seed}", seed=seed, **size))
        ids = [[reply.token_ids for _, replies, _ in seen for reply in replies] for *_, seen in results]
        assert ids[0] == ids[1]
        assert ids[0] != ids[2]
        assert moved(results[0][0].bundle, results[1][0].bundle) == []

    def test_evaluation_changes_nothing(self, tmp_path: Path) -> None:
        """A run that evaluates at every step gives the same bits as one that never does."""
        arguments: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 4}
        evaluation: dict[str, Any] = {"do_eval": True, "eval_strategy": "steps", "eval_steps": 1}
        without, _, _ = self.run(tmp_path / "without", **arguments)
        with_it, _, _ = self.run(tmp_path / "with", evaluate=ASKED[:2], **arguments, **evaluation)
        assert moved(without.bundle, with_it.bundle) == []


def _logp(module: Any, prompt: Sequence[int], reply: Sequence[int]) -> Any:
    """The log-probability of a whole reply."""
    import torch

    with torch.no_grad():
        logits = module.eval()(input_ids=torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(reply)[:, None]).sum()


def _distance(first: ModelBundle, second: ModelBundle) -> float:
    """The greatest difference of two models' weights."""
    others = dict(second.module.named_parameters())
    return max(
        float((p - others[name]).abs().max().detach())
        for name, p in first.module.named_parameters()
        if name in others
    )
