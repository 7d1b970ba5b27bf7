"""The contract of model plugins (`load_model`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tkernel.errors import TkError
from tkernel.index import read_index
from tkernel.testing import tiny
from tkernel.testing.contract import Contract
from tkernel.types.bundle import ModelBundle
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import ModelRequest

TEXT = "The user owes 12 € to the inn.\n\n  naïve 😀"


class ModelContract(Contract):
    """Weights, tokenizer, precision and roles of `load_model`, on a tiny folder written by the suite."""

    kind = "model"
    model_type: ClassVar[str | None] = None
    """What the tiny folder contains: a key of `tiny.TINY_CONFIGS` or `llava`; default: the plugin's
    name where it is one of them, else `llama`."""
    arguments: ClassVar[Mapping[str, Any]] = {"use_cpu": True}
    load_kwargs: ClassVar[Mapping[str, Any]] = {"attn_implementation": "eager"}

    def write_model(self, folder: Path, **overrides: Any) -> ModelFacts:
        """Write a tiny model for the plugin to load; override it for another file layout."""
        known = (*tiny.TINY_CONFIGS, "llava")
        model_type = self.model_type or (self.name if self.name in known else "llama")
        return tiny.save_model(folder, model_type, **overrides)

    def request(self, facts: ModelFacts, **fields: Any) -> ModelRequest:
        """The request for these facts."""
        defaults = {"options": self.bound_options(), "arguments": self.arguments, "trainable": False}
        return ModelRequest(facts, **{**defaults, **fields})

    def load(self, facts: ModelFacts, **fields: Any) -> ModelBundle:
        """Call the hook."""
        bundle: ModelBundle = self.provider.load_model(self.request(facts, **fields))
        return bundle

    def logits(self, bundle: ModelBundle) -> Any:
        """Logits of `TEXT`: `(1, tokens, vocabulary)`."""
        import torch

        ids = torch.tensor([bundle.tokenizer(TEXT, add_special_tokens=False).input_ids])
        with torch.no_grad():
            return bundle.module.eval()(input_ids=ids).logits

    def test_logits_are_finite_and_of_the_vocabulary(self, tmp_path: Path) -> None:
        """One finite logit for each token of the vocabulary at each position."""
        bundle = self.load(self.write_model(tmp_path))
        logits = self.logits(bundle)
        assert logits.isfinite().all()
        assert logits.shape[-1] >= len(bundle.tokenizer)

    def test_the_weights_are_those_of_the_files(self, tmp_path: Path) -> None:
        """Every tensor of the safetensors file is in the module, bit by bit."""
        from safetensors.torch import load_file

        facts = self.write_model(tmp_path)
        module = self.load(facts).module
        saved = tmp_path / "again"
        module.save_pretrained(saved)
        expected, found = load_file(tmp_path / "model.safetensors"), load_file(saved / "model.safetensors")
        assert expected.keys() == found.keys()
        assert [name for name in expected if not expected[name].equal(found[name])] == []

    def test_a_saved_bundle_loads_with_the_same_bits(self, tmp_path: Path) -> None:
        """Saving module and tokenizer and loading them gives the same logits and the same ids."""
        facts = self.write_model(tmp_path / "first")
        first = self.load(facts)
        second_folder = tmp_path / "second"
        first.module.save_pretrained(second_folder)
        first.tokenizer.save_pretrained(second_folder)
        if first.processor is not None:
            first.processor.save_pretrained(second_folder)
        second = self.load(replace(facts, name=str(second_folder), location=str(second_folder)))
        assert second.tokenizer(TEXT).input_ids == first.tokenizer(TEXT).input_ids
        assert self.logits(second).equal(self.logits(first))

    def test_the_dtype_is_the_one_asked_for(self, tmp_path: Path) -> None:
        """All weights are in the precision that is asked for: by the option `infer_dtype` where there
        is one, else by `dtype` in the slot `load_kwargs`."""
        import torch

        facts = self.write_model(tmp_path)
        fields = getattr(getattr(self.provider, "Options", None), "__dataclass_fields__", {})
        for dtype in (torch.float32, torch.bfloat16):
            named = str(dtype).removeprefix("torch.")
            options = (
                self.bound_options(infer_dtype=named) if "infer_dtype" in fields else self.bound_options()
            )
            request = self.request(facts, options=options)
            if "infer_dtype" not in fields:
                request.slots.put("load_kwargs", {"dtype": dtype}, by="contract")
            module = self.provider.load_model(request).module
            assert {parameter.dtype for parameter in module.parameters()} == {dtype}

    def test_the_tokenizer_is_the_one_of_the_folder(self, tmp_path: Path) -> None:
        """It knows the folder's tokens, special ones included, and decodes what it encoded."""
        facts = self.write_model(tmp_path)
        tokenizer = self.load(facts).tokenizer
        written = json.loads((tmp_path / "tokenizer.json").read_text())
        special = {token["content"]: token["id"] for token in written["added_tokens"] if token["special"]}
        ids = tokenizer(TEXT, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == TEXT
        assert {token: tokenizer.convert_tokens_to_ids(token) for token in special} == special
        assert {token: tokenizer(token, add_special_tokens=False).input_ids for token in special} == {
            token: [number] for token, number in special.items()
        }

    def test_scoring_roles_are_frozen_and_compute_the_same(self, tmp_path: Path) -> None:
        """A reference or reward model has no trainable parameter and the policy's weights."""
        facts = self.write_model(tmp_path)
        expected = self.logits(self.load(facts))
        for role in ("reference", "reward"):
            bundle = self.load(facts, role=role)
            assert bundle.role == role
            assert [n for n, p in bundle.module.named_parameters() if p.requires_grad] == []
            assert self.logits(bundle).equal(expected)

    def test_the_mode_is_the_one_asked_for(self, tmp_path: Path) -> None:
        """Train mode with `trainable`, eval mode without."""
        facts = self.write_model(tmp_path)
        assert self.load(facts, trainable=True).module.training
        assert not self.load(facts, trainable=False).module.training

    def test_facts_travel_with_the_bundle(self, tmp_path: Path) -> None:
        """The bundle carries the facts that it was loaded from."""
        facts = self.write_model(tmp_path)
        assert self.load(facts).facts == facts

    def test_a_multimodal_model_brings_its_processor(self, tmp_path: Path) -> None:
        """A model with a vision or audio part comes with a processor, another one without."""
        facts = self.write_model(tmp_path)
        assert (self.load(facts).processor is not None) == facts.is_multimodal

    def test_load_kwargs_reach_the_loader(self, tmp_path: Path) -> None:
        """What an extension puts into the slot `load_kwargs` is read and has its effect."""
        facts = self.write_model(tmp_path)
        request = self.request(facts)
        request.slots.put("load_kwargs", dict(self.load_kwargs), by="contract")
        config = self.provider.load_model(request).module.config
        assert request.slots.unread() == {}
        if "attn_implementation" in self.load_kwargs:
            assert config._attn_implementation == self.load_kwargs["attn_implementation"]

    def test_loading_twice_gives_the_same_model(self, tmp_path: Path) -> None:
        """Nothing depends on the state of the global random generator."""
        import torch

        facts = self.write_model(tmp_path)
        torch.manual_seed(1)
        first = self.logits(self.load(facts))
        torch.manual_seed(2)
        assert self.logits(self.load(facts)).equal(first)

    def test_missing_weights_are_an_error(self, tmp_path: Path) -> None:
        """A folder without weights raises a TkError that names it; weights are never made up."""
        facts = self.write_model(tmp_path)
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()
        with pytest.raises(TkError) as caught:
            self.load(facts)
        assert str(tmp_path) in str(caught.value)

    def test_without_weights_the_tokenizer_is_the_same(self, tmp_path: Path) -> None:
        """`weights=False` gives the tokenizer and the new tokens that loading all of it gives."""
        facts = self.write_model(tmp_path)
        whole, light = self.load(facts), self.load(facts, weights=False)
        assert light.tokenizer(TEXT).input_ids == whole.tokenizer(TEXT).input_ids
        assert len(light.tokenizer) == len(whole.tokenizer)
        assert light.new_tokens == whole.new_tokens

    def test_pickled_weights_are_refused(self, tmp_path: Path) -> None:
        """A folder with pickled weights alone raises a TkError, unless they are explicitly allowed."""
        import torch
        from safetensors.torch import load_file

        facts = self.write_model(tmp_path)
        for file in tmp_path.glob("*.safetensors"):
            torch.save(load_file(file), tmp_path / "pytorch_model.bin")
            file.unlink()
        with pytest.raises(TkError):
            self.load(facts)

    def test_code_of_the_checkpoint_is_not_executed(self, tmp_path: Path) -> None:
        """Python files beside the weights are not run, whatever the configuration says."""
        facts = self.write_model(tmp_path)
        marker = tmp_path / "executed"
        code = f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n"
        (tmp_path / "remote.py").write_text(code)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["auto_map"] = {"AutoConfig": "remote.Config", "AutoModelForCausalLM": "remote.Model"}
        file.write_text(json.dumps(config))
        try:
            self.load(replace(facts, config={**facts.config, "auto_map": config["auto_map"]}))
        except TkError:
            pass  # refusing such a folder is as good as loading it with the library's own classes
        assert not marker.exists()

    def test_lora_targets_name_linear_layers(self, tmp_path: Path) -> None:
        """Each name in `lora_targets` is the name of linear layers of the model."""
        import torch

        targets = getattr(self.provider, "lora_targets", ())
        module = self.load(self.write_model(tmp_path)).module
        linear = {
            name.rpartition(".")[2]
            for name, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }
        assert set(targets) <= linear, (
            f"{sorted(set(targets) - linear)} are not linear layers: {sorted(linear)}"
        )

    def test_the_defaults_that_it_names_are_installed(self) -> None:
        """`default_template` and `media` name installed plugins."""
        for kind, fact in (("template", "default_template"), ("media", "media")):
            name = getattr(self.provider, fact, None)
            assert name is None or name in read_index().names(kind)
