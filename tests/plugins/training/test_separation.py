"""Which models keep packed samples apart, and that loss and gradient are then those of single samples."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.testing.media import draw
from tkernel.types.conversation import Conversation, Message
from tkernel.types.requests import MediaRequest
from tkernel_plugins.data.collator import SupervisedCollator
from tkernel_plugins.data.collator_packed import PackedCollator, Separation
from tkernel_plugins.media.llava import MEDIA
from tkernel_plugins.media.options import ImageOptions
from tkernel_plugins.training.losses import supervised_weight
from tkernel_plugins.training.separation import check_positions, separation_of

# Windows shorter than the longest sample, so that a mask without the window shows.
FAMILIES = {
    "llama": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "mixtral": {},
    "phi3": {},
}
BOTH = ("eager", "sdpa")
ATTENTION = {"gemma2": ("eager",)}  # transformers refuses sdpa: it has no soft caps.
LENGTHS = (21, 3, 2, 12, 7)


def model(family, attention, dtype=torch.float64, **config):
    built = tiny.make_model(family, **config)
    built.set_attn_implementation(attention)
    return built.to(dtype).train()


def made(config, attention="sdpa"):
    sizes = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    torch.manual_seed(0)
    whole = AutoConfig.for_model(**{**sizes, **ids, **config})
    return AutoModelForCausalLM.from_config(whole, attn_implementation=attention)


def samples(first_learned):
    """Samples of `LENGTHS` tokens; `first_learned` learns their first tokens, as `train_on_prompt` does."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(20, 280, (length,), generator=generator).tolist()
        labels = ids if first_learned else [*[-100] * (length // 2), *ids[length // 2 :]]
        weights = [0.5 + number] * length
        result.append({"input_ids": ids, "labels": labels, "weights": weights, "origin": number})
    return result


def packed(given):
    """The samples in two rows."""
    rows = []
    for part in (given[:3], given[3:]):
        row = {name: [v for s in part for v in s[name]] for name in ("input_ids", "labels", "weights")}
        row["lengths"] = [len(sample["input_ids"]) for sample in part]
        rows.append({**row, "origins": [sample["origin"] for sample in part]})
    return rows


def loss_and_gradient(module, batch):
    """The weighted sum of the losses of all supervised tokens, their number, and the gradient."""
    names = ("input_ids", "position_ids", "attention_mask", "use_cache", "pixel_values")
    logits = module(**{name: batch[name] for name in names if name in batch}).logits
    targets = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none"
    )
    loss = (losses * batch["weights"][:, 1:].flatten()).sum()
    module.zero_grad()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
    return loss.item(), supervised_weight(batch["labels"]).item(), gradient


def one_by_one(module, given, collator=None):
    """The same, summed over the samples, each alone and without padding."""
    collator = collator or SupervisedCollator(3, pad_to_multiple_of=None)
    parts = [loss_and_gradient(module, collator([sample])) for sample in given]
    losses, counts, gradients = zip(*parts, strict=True)
    return sum(losses), sum(counts), sum(gradients)


@pytest.mark.parametrize("first_learned", [False, True], ids=["replies", "all"])
@pytest.mark.parametrize(
    ("family", "attention"), [(name, kind) for name in FAMILIES for kind in ATTENTION.get(name, BOTH)]
)
def test_packed_joined_and_padded_samples_have_one_loss_and_one_gradient(family, attention, first_learned):
    # Experts are multiplied in groups, for which torch has no float64.
    dtype, tolerance = (torch.float32, 2e-5) if family == "mixtral" else (torch.float64, 2e-6)
    module = model(family, attention, dtype, **FAMILIES[family])
    given = samples(first_learned)
    separation = separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40)
    assert separation == Separation()
    expected, count, gradient = one_by_one(module, given)
    batches = (
        *([SupervisedCollator(3)(given)] if not FAMILIES[family] else []),
        PackedCollator(3, padded=40, separation=separation)(packed(given)),
        PackedCollator(3, separation=Separation(joined=True))(given),
        PackedCollator(3, separation=Separation(joined=True))(packed(given)),
    )
    for batch in batches:
        loss, learned, moved = loss_and_gradient(module, batch)
        assert learned == count
        assert loss == pytest.approx(expected, rel=tolerance)
        assert torch.allclose(moved, gradient, rtol=0, atol=tolerance * float(gradient.abs().max()))


def test_samples_that_see_each_other_have_another_loss():
    module = model("llama", "sdpa")
    given = samples(False)
    expected, _, _ = loss_and_gradient(module, SupervisedCollator(3)(given))
    loss, _, _ = loss_and_gradient(module, PackedCollator(3, padded=40)(packed(given)))
    assert loss != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("attention", BOTH)
def test_code_that_ignores_positions_gets_a_mask(attention):
    module = made({"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32}, attention).double()
    separation = separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40)
    assert separation.mask == (torch.bool if attention == "sdpa" else torch.float64)
    module.eval()
    expected, count, gradient = one_by_one(module, samples(False))
    batch = PackedCollator(3, padded=40, separation=separation)(packed(samples(False)))
    loss, learned, moved = loss_and_gradient(module, batch)
    assert (learned, loss) == (count, pytest.approx(expected, rel=2e-6))
    assert torch.allclose(moved, gradient, rtol=0, atol=2e-6 * float(gradient.abs().max()))


STATEFUL = {
    "qwen3_5_text": {
        "layer_types": ["linear_attention", "full_attention"],
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2, "block_ff_dim": 64},
    "mamba": {"state_size": 4},
}


@pytest.mark.parametrize("family", STATEFUL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_carries_a_state_along_the_row_is_refused(family, dtype):
    module = made({"model_type": family, **STATEFUL[family]}, "eager").to(dtype)
    with pytest.raises(TkError, match=r"`neat_packing` cannot be used with .*carry a state") as caught:
        separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40)
    assert "packing: true" in str(caught.value.hint)


def test_a_window_that_a_mask_would_lose_is_refused():
    module = made({"model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32})
    module.config.sliding_window = 8
    with pytest.raises(TkError, match="OPTForCausalLM: samples of one row are not kept apart"):
        separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40)
    assert separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=8).mask == torch.bool


def test_a_model_that_cannot_be_told_positions_is_refused():
    class WithoutPositions(torch.nn.Module):
        def forward(self, input_ids, attention_mask=None):
            return input_ids

    with pytest.raises(TkError, match="WithoutPositions takes no `position_ids`"):
        check_positions(WithoutPositions())


def test_the_trial_leaves_no_trace():
    module = model("llama", "sdpa", torch.float32)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_pictures_stay_with_their_samples(tmp_path):
    bundle = tiny.make_bundle("llava")
    media = MEDIA.process_media(MediaRequest(bundle, ImageOptions()))
    given = []
    for number, colour in enumerate(("red", "blue", "green")):
        image = draw(tmp_path / f"{colour}.png", colour)
        asked = Conversation((Message("user", "<image>What is it?" + "?" * number),), images=(image,))
        text = media.expand(asked).messages[0].content + f" It is {colour}."
        ids = bundle.tokenizer(text).input_ids
        sample = {"input_ids": ids, "labels": ids, "weights": [1.0] * len(ids), "origin": number}
        given.append({**sample, "images": [image]})
    row = {name: [v for s in given for v in s[name]] for name in ("input_ids", "labels", "weights", "images")}
    row |= {"lengths": [len(s["input_ids"]) for s in given], "origins": [0, 1, 2]}
    separation = separation_of(bundle.module, bundle.tokenizer, key="neat_packing", longest=400)
    alone = SupervisedCollator(3, media=media)
    expected, count, gradient = one_by_one(bundle.module, given, alone)
    for batch in (
        PackedCollator(3, padded=400, separation=separation, media=media)([row]),
        PackedCollator(3, separation=Separation(joined=True), media=media)(given),
    ):
        loss, learned, moved = loss_and_gradient(bundle.module, batch)
        assert (learned, loss) == (count, pytest.approx(expected, rel=1e-4))
        assert torch.allclose(moved, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))


def test_pictures_with_positions_of_their_own_are_refused():
    class Inner(torch.nn.Module):
        def get_rope_index(self, input_ids):
            return input_ids

    class WithRope(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Inner()

        def forward(self, input_ids, position_ids=None):
            return input_ids

    check_positions(WithRope())
    with pytest.raises(TkError, match="WithRope gives images and video positions of several dimensions"):
        check_positions(WithRope(), has_media=True)


@pytest.mark.parametrize("family", ["llama", "mixtral", "mistral"])
@pytest.mark.parametrize("attention", BOTH)
def test_rounding_in_sixteen_bits_is_no_leak(family, attention):
    module = model(family, attention, torch.bfloat16)
    assert separation_of(module, tiny.make_tokenizer(), key="neat_packing", longest=40) == Separation()
