"""LoRA: what it computes at start, what it trains, how it stacks, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from tkernel.errors import TkError
from tkernel.testing import tiny
from tkernel.types.check import CheckRequest
from tkernel.types.requests import AdapterRequest
from tkernel_plugins.adapters.lora import ADAPTER, LoraOptions
from tkernel_plugins.models import families

IDS = torch.arange(24).reshape(2, 12)


def adapt(
    bundle, *, adapters=(), trainable=True, seed=42, new_tokens=(), targets=(), arguments=(), **options
):
    request = AdapterRequest(
        LoraOptions(**options),
        tuple(map(str, adapters)),
        trainable,
        new_tokens,
        targets,
        dict(arguments),
        seed,
    )
    return ADAPTER.adapt(bundle, request)


def train(module, steps=3, ids=IDS, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def logits(module, ids=IDS):
    module.eval()
    with torch.no_grad():
        return module(input_ids=ids).logits


def trained(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@pytest.fixture
def saved(tmp_path):
    """Two adapters trained one upon the other, and the logits after each."""
    bundle = tiny.make_bundle()
    first = adapt(bundle).module
    train(first)
    first.save_pretrained(tmp_path / "first")
    after_first = logits(first)
    second = adapt(tiny.make_bundle(), adapters=[tmp_path / "first"], create_new_adapter=True).module
    assert (logits(second) - after_first).abs().max() < 1e-5
    train(second)
    second.save_pretrained(tmp_path / "second")
    return tmp_path / "first", tmp_path / "second", after_first, logits(second)


@pytest.mark.parametrize("family", sorted(tiny.TINY_CONFIGS))
def test_of_each_family_its_linear_layers_are_trained_and_nothing_else(family):
    layers = next(f for f in vars(families).values() if getattr(f, "name", "") == family).lora_targets
    bundle = tiny.make_bundle(family)
    before = logits(bundle.module)
    sizes = [
        sum(module.weight.shape)
        for name, module in bundle.module.named_modules()
        if name.rpartition(".")[2] in layers
    ]
    module = adapt(bundle, targets=layers).module
    assert torch.equal(logits(module), before)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained(module)} == set(layers)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 8 * sum(sizes)


@pytest.mark.parametrize("family", ["llama", "phi3", "glm", "gemma2"])
def test_all_finds_the_layers_that_the_family_names(family):
    known = next(f for f in vars(families).values() if getattr(f, "name", "") == family).lora_targets
    found = adapt(tiny.make_bundle(family)).module.peft_config["default"].target_modules
    assert set(found) == set(known)


def test_all_leaves_out_the_output_head_also_when_it_is_not_tied():
    module = adapt(tiny.make_bundle(tie_word_embeddings=False)).module
    assert not any("lm_head" in name for name in trained(module))


def test_names_may_be_a_list_or_text_with_commas():
    one = trained(adapt(tiny.make_bundle(), lora_target="q_proj, v_proj").module)
    two = trained(adapt(tiny.make_bundle(), lora_target=["q_proj", "v_proj"]).module)
    assert one == two
    assert len(one) == 2 * 2 * 2


def test_the_output_head_gets_an_adapter_when_it_is_named():
    names = trained(adapt(tiny.make_bundle(tie_word_embeddings=False), lora_target="lm_head").module)
    assert len(names) == 2
    assert all("lm_head.lora_" in name for name in names)


def test_alpha_is_twice_the_rank_unless_given():
    assert adapt(tiny.make_bundle(), lora_rank=4).module.peft_config["default"].lora_alpha == 8
    assert adapt(tiny.make_bundle(), lora_alpha=3).module.peft_config["default"].lora_alpha == 3


@pytest.mark.parametrize("rslora", [False, True])
def test_the_update_is_scaled_by_alpha_over_rank_or_its_root(rslora):
    bundle = tiny.make_bundle()
    weight = bundle.module.model.layers[0].self_attn.q_proj.weight.detach().clone()
    module = adapt(bundle, lora_rank=4, lora_alpha=6, use_rslora=rslora).module
    layer = module.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = weight + (6 / (math.sqrt(4) if rslora else 4)) * (b @ a)
    merged = module.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    assert (merged - expected).abs().max() < 1e-6


def test_dora_scales_each_row_to_its_trained_magnitude():
    bundle = tiny.make_bundle()
    weight = bundle.module.model.layers[0].self_attn.q_proj.weight.detach().clone()
    module = adapt(bundle, lora_rank=4, use_dora=True).module
    layer = module.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    magnitude = layer.lora_magnitude_vector["default"].weight
    magnitude.data.uniform_(0.5, 2)
    direction = weight + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    merged = module.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    assert (merged - expected).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_merged_weights_compute_what_the_adapter_does(options):
    module = adapt(tiny.make_bundle(), **options).module
    train(module)
    expected = logits(module)
    assert (logits(module.merge_and_unload()) - expected).abs().max() < 1e-4


def test_frozen_weights_do_not_change_by_a_bit():
    bundle = tiny.make_bundle()
    before = {name: p.clone() for name, p in bundle.module.named_parameters()}
    module = adapt(bundle, lora_dropout=0.1).module
    train(module)
    after = dict(module.unload().named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_seed_alone_decides_the_start():
    torch.manual_seed(1)
    one = {n: p for n, p in adapt(tiny.make_bundle()).module.named_parameters() if "lora_A" in n}
    torch.manual_seed(2)
    two = dict(adapt(tiny.make_bundle()).module.named_parameters())
    other = dict(adapt(tiny.make_bundle(), seed=7).module.named_parameters())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_injecting_leaves_the_global_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    adapt(tiny.make_bundle())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("checkpoint", [torch.float32, torch.bfloat16])
def test_with_bf16_the_base_is_in_bfloat16_and_the_adapter_in_float32(checkpoint):
    bundle = tiny.make_bundle()
    bundle.module.to(checkpoint)
    module = adapt(bundle, arguments={"bf16": True}, additional_target="embed_tokens").module
    kinds = {(p.requires_grad, p.dtype) for p in module.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        train(module)


def test_with_pure_bf16_everything_is_in_bfloat16_and_trains_without_autocast():
    module = adapt(tiny.make_bundle(), pure_bf16=True).module
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    before = logits(module)
    train(module)
    assert not torch.equal(logits(module), before)


def test_norms_that_were_asked_for_in_float32_stay_so():
    bundle = tiny.make_bundle()
    bundle.module._keep_in_fp32_modules = {"norm", "input_layernorm"}
    module = adapt(bundle, arguments={"bf16": True}).module
    base = {n: p.dtype for n, p in module.named_parameters() if "lora_" not in n}
    assert {n.split(".")[-2] for n, dtype in base.items() if dtype == torch.float32} == {
        "norm",
        "input_layernorm",
    }


def test_without_bf16_nothing_is_cast():
    bundle = tiny.make_bundle()
    module = adapt(bundle).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_the_last_adapter_is_trained_further(saved):
    first, second, _, after_second = saved
    module = adapt(tiny.make_bundle(), adapters=[first, second]).module
    assert (logits(module) - after_second).abs().max() < 1e-5
    assert len(trained(module)) == 2 * 7 * 2
    train(module)
    assert (logits(module) - after_second).abs().max() > 1e-3


def test_resuming_one_adapter_is_exact(saved):
    first, _, after_first, _ = saved
    assert torch.equal(logits(adapt(tiny.make_bundle(), adapters=[first]).module), after_first)


def test_a_new_adapter_starts_where_the_merged_ones_ended(saved):
    first, second, _, after_second = saved
    module = adapt(tiny.make_bundle(), adapters=[first, second], create_new_adapter=True, lora_rank=2).module
    assert (logits(module) - after_second).abs().max() < 1e-4
    assert module.peft_config["default"].r == 2


def test_for_inference_all_adapters_are_merged_and_nothing_is_trainable(saved):
    first, second, _, after_second = saved
    module = adapt(tiny.make_bundle(), adapters=[first, second], trainable=False).module
    assert type(module).__name__ == "LlamaForCausalLM"
    assert not module.training
    assert not trained(module)
    assert (logits(module) - after_second).abs().max() < 1e-4


@pytest.mark.parametrize(
    "option", [{"lora_rank": 4}, {"lora_alpha": 5}, {"use_dora": True}, {"lora_dropout": 0.5}]
)
def test_an_option_that_a_resumed_adapter_contradicts_is_an_error(saved, option):
    with pytest.raises(TkError, match=rf"`{next(iter(option))}.*create_new_adapter") as caught:
        adapt(tiny.make_bundle(), adapters=[saved[0]], **option)
    assert str(saved[0]) in caught.value.message


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("extra", [{}, {"additional_target": "embed_tokens,lm_head"}])
def test_embeddings_of_new_tokens_are_trained_saved_and_loaded(tmp_path, tied, extra):
    def grown():
        bundle = tiny.make_bundle(tie_word_embeddings=tied)
        new = tuple(range(len(bundle.tokenizer), len(bundle.tokenizer) + 3))
        torch.manual_seed(0)
        bundle.module.resize_token_embeddings(len(bundle.tokenizer) + 3)
        return bundle, new

    bundle, new = grown()
    before = bundle.module.get_input_embeddings().weight.detach().clone()
    ids = torch.tensor([[1, new[0], 2, new[1], new[2], 5]])
    start = logits(bundle.module, ids)
    module = adapt(bundle, new_tokens=new, **extra).module
    assert (logits(module, ids) - start).abs().max() < 1e-5
    train(module, ids=ids)
    module.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = logits(module, ids)
    for trainable in (False, True):
        again = adapt(grown()[0], adapters=[tmp_path], trainable=trainable, new_tokens=new).module
        assert (logits(again, ids) - expected).abs().max() < 1e-4
    merged = adapt(grown()[0], adapters=[tmp_path], trainable=False, new_tokens=new).module
    after = merged.get_input_embeddings().weight
    changed = {int(row) for row in (after != before).any(dim=1).nonzero()}
    assert set(new) <= changed
    if not extra:
        assert changed == set(new)
    if tied:
        assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_of_both_embeddings_is_trained_further_with_the_same_options(tmp_path, tied):
    both = {"additional_target": "embed_tokens,lm_head"}
    adapt(tiny.make_bundle(tie_word_embeddings=tied), **both).module.save_pretrained(tmp_path)
    again = adapt(tiny.make_bundle(tie_word_embeddings=tied), adapters=[tmp_path], **both).module
    same = again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert same is tied
    for other in ("embed_tokens,norm", "embed_tokens,lm_head,norm"):
        with pytest.raises(TkError, match="`additional_target: "):
            adapt(tiny.make_bundle(tie_word_embeddings=tied), adapters=[tmp_path], additional_target=other)


def test_tokens_that_the_model_plugin_added_are_trained_too():
    bundle = tiny.make_bundle().replace(new_tokens=(298, 299))
    module = adapt(bundle, new_tokens=(297,)).module
    assert any("trainable_tokens" in name for name in trained(module))
    rows = module.peft_config["default"].trainable_token_indices
    assert rows == {"model.embed_tokens": [297, 298, 299], "lm_head": [297, 298, 299]}


def test_a_target_that_matches_nothing_lists_what_could():
    with pytest.raises(TkError, match="q_prj") as caught:
        adapt(tiny.make_bundle(), lora_target="q_prj,v_proj")
    assert "Did you mean 'q_proj'?" in caught.value.hint
    assert all(name in caught.value.hint for name in families.LLAMA.lora_targets)
    with pytest.raises(TkError, match="additional_target: embed_token`"):
        adapt(tiny.make_bundle(), additional_target="embed_token")


@pytest.mark.parametrize("target", [[], ["", " "], " , "])
def test_a_target_that_names_nothing_is_found_while_planning(target):
    (problem,) = ADAPTER.check(CheckRequest(LoraOptions(lora_target=target)))
    assert (problem.key, problem.message) == ("lora_target", "`lora_target` names no layer")


def test_a_folder_that_is_missing_or_no_adapter_is_an_error(tmp_path):
    with pytest.raises(TkError, match="no folder"):
        adapt(tiny.make_bundle(), adapters=[tmp_path / "nowhere"])
    with pytest.raises(TkError, match="not an adapter"):
        adapt(tiny.make_bundle(), adapters=[tmp_path])
    with pytest.raises(TkError, match="nobody/nothing"):
        adapt(tiny.make_bundle(), adapters=["nobody/nothing"])


def test_a_run_folder_points_to_its_checkpoint(saved):
    first = saved[0]
    shutil.move(first, first.parent / "run" / "checkpoint-3")
    with pytest.raises(TkError, match="checkpoint-3"):
        adapt(tiny.make_bundle(), adapters=[first.parent / "run"])


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({"hidden_size": 64}, "has 32 outputs"),
        ({"num_hidden_layers": 1}, "lacks"),
        ({"model_type": "phi3"}, "lacks"),
    ],
)
def test_an_adapter_of_another_base_is_an_error_that_says_which(saved, base, expected):
    with pytest.raises(TkError, match=expected) as caught:
        adapt(tiny.make_bundle(**base), adapters=[saved[0]])
    assert "It was made for" in caught.value.hint


def test_a_damaged_or_pickled_adapter_is_an_error(saved):
    weights = saved[0] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TkError, match="damaged"):
        adapt(tiny.make_bundle(), adapters=[saved[0]])
    weights.rename(saved[0] / "adapter_model.bin")
    with pytest.raises(TkError, match="pickle"):
        adapt(tiny.make_bundle(), adapters=[saved[0]])


def test_an_adapter_of_another_method_is_an_error(saved):
    config = saved[0] / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "OFT"}))
    with pytest.raises(TkError, match="OFT"):
        adapt(tiny.make_bundle(), adapters=[saved[0]])


def test_a_vision_tower_and_its_projector_are_left_alone():
    module = adapt(tiny.make_bundle("llava")).module
    names = trained(module)
    assert names
    assert all(".language_model." in name for name in names)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == set(families.LLAMA.lora_targets)


def test_a_vision_tower_and_its_projector_are_trained_when_asked():
    names = trained(
        adapt(tiny.make_bundle("llava"), freeze_vision_tower=False, freeze_multi_modal_projector=False).module
    )
    assert any(".vision_tower." in name and ".lora_A." in name for name in names)
    assert any("multi_modal_projector" in name and "modules_to_save" in name for name in names)
    names = trained(
        adapt(tiny.make_bundle("llava"), freeze_vision_tower=False, freeze_language_model=True).module
    )
    assert all(".vision_tower." in name for name in names)


def test_every_parameter_is_listed_on_request(capsys):
    adapt(tiny.make_bundle(), print_param_status=True)
    lines = capsys.readouterr().out.splitlines()
    assert any("q_proj.lora_A" in line and line.endswith("trained") for line in lines)
    assert any("embed_tokens" in line and line.endswith("frozen") for line in lines)


@pytest.mark.slow
def test_an_adapter_that_llama_factory_wrote_loads_and_trains_further(shared, smollm2):
    from tkernel.facts import read_facts
    from tkernel.types.requests import ModelRequest

    bundle = families.LLAMA.load_model(ModelRequest(read_facts(str(smollm2)), arguments={"use_cpu": True}))
    before = logits(bundle.module)
    module = adapt(bundle, adapters=[shared / "golden" / "sft_init_adapter"]).module
    assert torch.equal(logits(module), before)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 2_442_240
    train(module, steps=1)
    assert not torch.equal(logits(module), before)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient_of_an_adapter(tmp_path, reentrant):
    from tkernel.types.requests import ModelRequest
    from tkernel_plugins.models.options import ModelOptions

    facts = tiny.save_model(tmp_path)

    def gradients(**options):
        request = ModelRequest(facts, ModelOptions(**options), arguments={"use_cpu": True})
        module = adapt(families.LLAMA.load_model(request)).module
        module(input_ids=IDS, labels=IDS).loss.backward()
        return [p.grad for p in module.parameters() if p.requires_grad]

    plain = gradients(disable_gradient_checkpointing=True)
    saved = gradients(disable_gradient_checkpointing=False, use_reentrant_gc=reentrant)
    assert all(torch.equal(a, b) for a, b in zip(plain, saved, strict=True))
    assert any(gradient.abs().sum() > 0 for gradient in plain)


def test_a_saved_adapter_names_its_base_as_the_user_wrote_it(tmp_path):
    from tkernel.types.requests import ModelRequest

    facts = tiny.save_model(tmp_path / "base")
    adapt(families.LLAMA.load_model(ModelRequest(facts))).module.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == facts.name
