"""What the contract of engines runs on: tiny models, where they are saved, and what they say by the plainest loop."""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.chatml import chatml_renderer
from tkernel.testing.contract import Contract
from tkernel.types.bundle import ModelBundle
from tkernel.types.conversation import Conversation, Message
from tkernel.types.engine import Engine, Reply, Sampling
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import EngineRequest

GREEDY = Sampling(do_sample=False, max_new_tokens=10)
QUESTIONS = ("Hi", "Who runs the inn, and is it the user?", "How much is 12 and 12?\n\nSay it.")

_FOLDERS: dict[str, tuple[tempfile.TemporaryDirectory[str], ModelFacts]] = {}


def saved(bundle: ModelBundle) -> ModelFacts:
    """The facts of a folder with this model and its tokenizer; the same weights have the same folder in a process."""
    digest = hashlib.sha256(str(bundle.module.config.to_dict()).encode())
    for name, value in bundle.module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    key = digest.hexdigest()
    if key not in _FOLDERS:
        folder = tempfile.TemporaryDirectory(prefix="tk-engine-")
        bundle.module.save_pretrained(folder.name)
        bundle.tokenizer.save_pretrained(folder.name)
        _FOLDERS[key] = folder, tiny.facts_of(bundle.module, bundle.tokenizer, location=folder.name)
    return _FOLDERS[key][1]


def scripted_bundle(text: str, *, endless: bool = False, **sizes: Any) -> ModelBundle:
    """A tiny Llama that says `text` and then `<|im_end|>`, or `text` over and over.

    Attention and MLP are zero, so the next token depends on the last one alone: the row of the head
    that belongs to the next token is the embedding of the last one. No token may occur twice.
    """
    import torch

    bundle = tiny.make_bundle("llama", **{"hidden_size": 64, **sizes})
    tokenizer, module = bundle.tokenizer, bundle.module
    said = tokenizer(text, add_special_tokens=False).input_ids
    chain = [tokenizer("\n").input_ids[0], *said, said[0] if endless else tokenizer.eos_token_id]
    with torch.no_grad():
        for layer in module.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings = torch.nn.functional.normalize(module.model.embed_tokens.weight, dim=-1)
        module.model.embed_tokens.weight.copy_(embeddings)
        module.lm_head.weight.zero_()
        for last, following in itertools.pairwise(chain):
            module.lm_head.weight[following] += 4.0 * embeddings[last]
    return bundle


def asking(question: str) -> Conversation:
    return Conversation((Message("user", question),))


def reference(bundle: ModelBundle, conversation: Conversation, count: int, penalty: float = 1.0) -> list[int]:
    """Ids of the greedy reply, a full forward pass for each."""
    prompt = chatml_renderer(bundle.tokenizer).prompt_ids(conversation)
    return continued(bundle, prompt, count, penalty)


def continued(bundle: ModelBundle, prompt: list[int], count: int, penalty: float = 1.0) -> list[int]:
    import torch

    stop_ids = chatml_renderer(bundle.tokenizer).stop_ids
    ids: list[int] = []
    while len(ids) < count and (not ids or ids[-1] not in stop_ids):
        with torch.no_grad():
            logits = bundle.module(input_ids=torch.tensor([prompt + ids])).logits[0, -1]
        for token in {*prompt, *ids}:
            logits[token] *= penalty if logits[token] < 0 else 1 / penalty
        ids.append(int(logits.argmax()))
    return ids


class EngineRuns(Contract):
    """How an engine is started, and what it need not be able to do."""

    kind = "engine"
    default_options: ClassVar[Mapping[str, Any]] = {"do_sample": False, "max_new_tokens": 5}
    """Options for a session whose own sampling is asked for."""
    long: ClassVar[int] = 400
    """Tokens of a reply that is meant to take a while; fewer for an engine that computes all of it for each token."""
    cannot: ClassVar[Mapping[str, str]] = {}
    """What the engine cannot do, and why: a key of the sampling, which it must refuse with a `TkError` that names it, or
    `token_ids` (a reply has its text's, not those that were generated). Such checks are skipped with the reason."""
    sizes: ClassVar[Mapping[str, Any]] = {}
    """Fields of the tiny model's config, for kernels that take no heads of 8: `{"head_dim": 32}`."""

    def bundle(self) -> ModelBundle:
        """A fresh tiny model in eval mode."""
        return tiny.make_bundle(**self.sizes)

    def scripted(self, text: str, *, endless: bool = False) -> ModelBundle:
        """A tiny model that says `text`, once or over and over; see `scripted_bundle`."""
        return scripted_bundle(text, endless=endless, **self.sizes)

    def options_for(self, folder: Path) -> Mapping[str, Any]:
        """Options with which the engine replies as the model in `folder`, for an engine without `bundle`."""
        return {}

    def places(self, engine: Engine) -> int | None:
        """How many replies the engine is making now; None if nothing tells."""
        return getattr(engine, "running", None)

    def engine(self, bundle: ModelBundle | None = None, *, seed: int = 42, **options: Any) -> Engine:
        """Call the hook with a bundle in memory, or with the path of the model for an engine that loads it itself."""
        bundle = bundle or self.bundle()
        facts = bundle.facts
        if not self._takes_a_bundle:
            facts = saved(bundle)
            bundle = bundle.replace(module=None, facts=facts)
            options = {**self.options_for(Path(str(facts.location))), **options}
        request = EngineRequest(
            chatml_renderer(bundle.tokenizer),
            bundle,
            facts,
            options=self.bound_options(**options),
            seed=seed,
            settings={"infer_dtype": "float32"},
        )
        engine: Engine = self.provider.generate(request)
        return engine

    @property
    def _takes_a_bundle(self) -> bool:
        return "bundle" in getattr(self.provider, "capabilities", ("bundle",))

    def skip_if_refused(self, key: str, engine: Engine, sampling: Sampling) -> None:
        """Skip a check of what the engine cannot do, if it says so when it is asked."""
        import pytest

        if key in self.cannot:
            with pytest.raises(TkError, match=key):
                engine.reply([asking("Hi")], sampling)
            engine.close()
            pytest.skip(self.cannot[key])

    def check_ids(self, bundle: ModelBundle, reply: Reply, expected: list[int]) -> None:
        """The reply has these ids; if its ids are those of its text, then it has their text."""
        if "token_ids" not in self.cannot:
            assert list(reply.token_ids) == expected
        else:
            decoded = bundle.tokenizer.decode(expected, skip_special_tokens=True)
            assert reply.text == decoded

    def skip_without_a_module(self) -> None:
        import pytest

        if not self._takes_a_bundle:
            pytest.skip("the engine loads the weights itself: there is no module to look at")

    def with_logprobs(self, count: int) -> list[tuple[Reply, Any]]:
        """Drawn replies, each with the log-probabilities `(tokens, vocabulary)` of a forward pass."""
        import pytest
        import torch

        bundle = self.bundle()
        engine = self.engine(bundle)
        sampling = Sampling(temperature=1.5, top_p=0.9, top_k=9, max_new_tokens=8, logprobs=count)
        if count:
            self.skip_if_refused("logprobs", engine, sampling)
        found = []
        for question in QUESTIONS:
            prompt = chatml_renderer(bundle.tokenizer).prompt_ids(asking(question))
            reply = engine.reply([asking(question)], sampling)[0]
            assert reply.prompt_tokens == len(prompt)
            if "token_ids" in self.cannot:
                engine.close()
                pytest.skip(self.cannot["token_ids"])
            with torch.no_grad():
                logits = bundle.module(input_ids=torch.tensor([[*prompt, *reply.token_ids]])).logits[0]
            found.append((reply, logits.float().log_softmax(-1)[len(prompt) - 1 : -1]))
        engine.close()
        return found
