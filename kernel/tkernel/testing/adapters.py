"""The contract of adapter plugins (`adapt`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.contract import Contract
from tkernel.types.bundle import ModelBundle
from tkernel.types.requests import AdapterRequest

TEXTS = ("The user owes 12 to the inn.", "Hello there, naïve 😀 friend", "and then on and on and on")
ROUNDING = 2e-5
"""What logits of size 1 may differ by in fp32 when an adapter was merged into the weights."""


class AdapterContract(Contract):
    """What an adapter trains, leaves alone, saves and merges, on a tiny model in fp32."""

    kind = "adapter"
    model_type: ClassVar[str] = "llama"
    """The tiny model: a key of `tiny.TINY_CONFIGS`."""
    arguments: ClassVar[Mapping[str, Any]] = {"use_cpu": True}
    trained: ClassVar[str | None] = None
    """A regular expression for the names of the parameters that are trained (names as in the base
    model or as the adapter adds them); None leaves that open."""
    unknown_target: ClassVar[Mapping[str, Any] | None] = None
    """Options that name a layer which the model does not have; None: `no_such_layer` for the options
    whose names end in `_target` or `_modules`, where there are any."""

    def bundle(self) -> ModelBundle:
        """A fresh tiny model, the same one each time, as a model plugin hands it over for training."""
        bundle = tiny.make_bundle(self.model_type)
        bundle.module.train()
        return bundle

    def adapt(self, bundle: ModelBundle | None = None, **fields: Any) -> ModelBundle:
        """Call the hook."""
        defaults = {"options": self.bound_options(), "arguments": self.arguments}
        request = AdapterRequest(**{**defaults, **fields})
        adapted: ModelBundle = self.provider.adapt(bundle if bundle is not None else self.bundle(), request)
        return adapted

    def save(self, bundle: ModelBundle, folder: Path) -> None:
        """Save as a stage does."""
        bundle.module.save_pretrained(folder)
        bundle.tokenizer.save_pretrained(folder)

    def load(self, folder: Path, *, trainable: bool) -> ModelBundle:
        """Load what `save` wrote: an adapter into a fresh base, or a whole model."""
        if (folder / "config.json").exists():
            from transformers import AutoModelForCausalLM

            module = AutoModelForCausalLM.from_pretrained(folder)
            module.train(trainable)
            return self.adapt(self.bundle().replace(module=module), trainable=trainable)
        return self.adapt(adapters=(str(folder),), trainable=trainable)

    def batch(self, bundle: ModelBundle) -> dict[str, Any]:
        """A fixed batch: `input_ids`, `attention_mask` and `labels`, padded right."""
        batch = dict(bundle.tokenizer(list(TEXTS), padding=True, return_tensors="pt"))
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch

    def logits(self, bundle: ModelBundle) -> Any:
        """Logits of the fixed batch in eval mode, where it is not padding."""
        import torch

        batch = self.batch(bundle)
        training = bundle.module.training
        with torch.no_grad():
            logits = bundle.module.eval()(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
        bundle.module.train(training)
        return logits[batch["attention_mask"].bool()]

    def train(self, bundle: ModelBundle, steps: int) -> list[float]:
        """Losses of a few steps of AdamW on the fixed batch."""
        import torch

        trained = [p for p in bundle.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
        batch = self.batch(bundle)
        losses = []
        torch.manual_seed(0)
        for _ in range(steps):
            loss = bundle.module(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def test_it_is_the_identity_at_start(self) -> None:
        """Before any step the adapted model computes what the base computes."""
        difference = self.logits(self.adapt()) - self.logits(self.bundle())
        assert difference.abs().max().item() <= 1e-6

    def test_it_trains_what_it_declares(self) -> None:
        """Some parameters are trainable, and exactly those that `trained` describes."""
        module = self.adapt().module
        names = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
        assert any(names.values())
        if self.trained is not None:
            expected = {name: re.search(self.trained, name) is not None for name in names}
            assert names == expected

    def test_every_trainable_parameter_is_used(self) -> None:
        """Three steps move each parameter that asks for a gradient."""
        bundle = self.adapt()
        before = {n: p.detach().clone() for n, p in bundle.module.named_parameters() if p.requires_grad}
        self.train(bundle, 3)
        after = dict(bundle.module.named_parameters())
        assert [name for name in before if before[name].equal(after[name])] == []

    def test_frozen_parameters_do_not_move(self) -> None:
        """Three steps leave every other parameter as it was, bit by bit."""
        bundle = self.adapt()
        before = {n: p.detach().clone() for n, p in bundle.module.named_parameters() if not p.requires_grad}
        self.train(bundle, 3)
        after = dict(bundle.module.named_parameters())
        assert [name for name in before if not before[name].equal(after[name])] == []

    def test_the_loss_falls(self) -> None:
        """Twenty steps on one batch make its loss smaller."""
        losses = self.train(self.adapt(), 20)
        assert losses[-1] < losses[0]

    def test_a_saved_result_loads_with_the_same_logits(self, tmp_path: Path) -> None:
        """Trained, saved, and loaded into a fresh base for inference, it computes the same."""
        bundle = self.adapt()
        self.train(bundle, 3)
        self.save(bundle, tmp_path)
        loaded = self.load(tmp_path, trainable=False)
        assert (self.logits(loaded) - self.logits(bundle)).abs().max().item() <= ROUNDING

    def test_training_resumes_from_a_saved_result(self, tmp_path: Path) -> None:
        """Loaded for training, it starts from the saved result and goes on learning."""
        bundle = self.adapt()
        first = self.train(bundle, 5)
        self.save(bundle, tmp_path)
        loaded = self.load(tmp_path, trainable=True)
        assert (self.logits(loaded) - self.logits(bundle)).abs().max().item() <= 1e-6
        second = self.train(loaded, 5)
        assert second[-1] < second[0]
        assert second[-1] < first[0]

    def test_merging_changes_nothing(self) -> None:
        """Where the module can be merged, the merged model computes the same, in fp64."""
        bundle = self.adapt()
        if not hasattr(bundle.module, "merge_and_unload"):
            pytest.skip("the adapted module has nothing to merge")
        self.train(bundle, 3)
        bundle.module.double()
        adapted = self.logits(bundle)
        merged = bundle.replace(module=bundle.module.merge_and_unload())
        assert (self.logits(merged) - adapted).abs().max().item() <= 1e-9
        assert type(merged.module) is type(self.bundle().module)

    def test_for_inference_nothing_is_trainable(self) -> None:
        """With `trainable` False no parameter asks for a gradient."""
        module = self.adapt(trainable=False).module
        assert [name for name, p in module.named_parameters() if p.requires_grad] == []

    def test_the_seed_decides_the_start(self) -> None:
        """The same seed gives the same trainable parameters, whatever the global generator's state."""
        import torch

        torch.manual_seed(1)
        first = {n: p for n, p in self.adapt(seed=7).module.named_parameters() if p.requires_grad}
        torch.manual_seed(2)
        second = {n: p for n, p in self.adapt(seed=7).module.named_parameters() if p.requires_grad}
        assert first.keys() == second.keys()
        assert [name for name in first if not first[name].equal(second[name])] == []

    def test_an_unknown_target_is_an_error(self) -> None:
        """A target that matches no module is a TkError that names the target and what could match."""
        unknown = self.unknown_target
        if unknown is None:
            fields = getattr(getattr(self.provider, "Options", None), "__dataclass_fields__", {})
            named = [name for name in fields if name.endswith(("_target", "_modules"))]
            unknown = {named[0]: "no_such_layer"} if named else None
        if unknown is None:
            pytest.skip("the adapter has no option that names a layer")
        with pytest.raises(TkError) as caught:
            self.adapt(options=self.bound_options(**unknown))
        layers = {part for name, _ in self.bundle().module.named_modules() for part in name.split(".")} - {""}
        message = str(caught.value)
        assert "no_such_layer" in message
        assert any(re.search(rf"\b{layer}\b", message) for layer in layers)

    def test_trained_weights_are_held_in_float32(self) -> None:
        """Of a model that was loaded in bfloat16, what is trained is cast up: an optimiser would round
        small updates away. The forward pass runs under autocast, as a stage with `bf16` runs it."""
        import torch

        bundle = self.bundle()
        bundle.module.to(torch.bfloat16)
        adapted = self.adapt(bundle, arguments={**self.arguments, "bf16": True})
        dtypes = {p.dtype for p in adapted.module.parameters() if p.requires_grad}
        assert dtypes == {torch.float32}
        with torch.autocast("cpu", torch.bfloat16):
            loss = adapted.module(**self.batch(adapted)).loss
        loss.backward()
        assert all(p.grad.isfinite().all() for p in adapted.module.parameters() if p.grad is not None)

    def test_embeddings_of_new_tokens_are_trained_and_saved(self, tmp_path: Path) -> None:
        """Tokens that the template added are learned, whatever else is frozen, and survive saving."""
        bundle = self.bundle()
        token = bundle.tokenizer("12", add_special_tokens=False).input_ids[0]
        adapted = self.adapt(bundle, new_tokens=(token,))
        before = _embedding(adapted)[token].clone()
        self.train(adapted, 3)
        trained = _embedding(adapted)[token].clone()
        assert not trained.equal(before)
        self.save(adapted, tmp_path)
        if (tmp_path / "config.json").exists():
            loaded = self.load(tmp_path, trainable=False)
        else:
            loaded = self.adapt(adapters=(str(tmp_path),), trainable=False, new_tokens=(token,))
        assert (self.logits(loaded) - self.logits(adapted)).abs().max().item() <= ROUNDING


def _embedding(bundle: ModelBundle) -> Any:
    """The embedding of each token as the module computes it: `(vocabulary, hidden)`."""
    import torch

    with torch.no_grad():
        return bundle.module.get_input_embeddings()(torch.arange(len(bundle.tokenizer)))
