"""What the options of a model plugin do, on tiny models of every family."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch

from tkernel.errors import TkError
from tkernel.facts import read_facts
from tkernel.testing import tiny
from tkernel.types.requests import ModelRequest
from tkernel_plugins.models import families
from tkernel_plugins.models.family import Family
from tkernel_plugins.models.huggingface import MODEL
from tkernel_plugins.models.options import ModelOptions

FAMILIES = [value for value in vars(families).values() if isinstance(value, Family)]
IDS = torch.arange(24).reshape(2, 12)


def load(
    folder,
    *,
    model=MODEL,
    trainable=True,
    role="policy",
    arguments=(),
    load_kwargs=None,
    settings=(),
    **options,
):
    facts = read_facts(str(folder))
    arguments = {"use_cpu": True, **dict(arguments)}
    request = ModelRequest(
        facts, ModelOptions(**options), role, trainable, arguments, settings=dict(settings)
    )
    if load_kwargs:
        request.slots.put("load_kwargs", load_kwargs, by="test")
    bundle = model.load_model(request)
    assert not request.slots.unread()
    return bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny.save_model(path)
    return path


def edited(folder, tmp_path, file="config.json", **changes):
    copy = tmp_path / "edited"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    config = json.loads((copy / file).read_text())
    config.update(changes)
    (copy / file).write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_names_layers_that_its_models_have(family):
    layers = {name.rpartition(".")[2] for name, _ in tiny.make_model(family.name).named_modules()}
    assert set(family.lora_targets) <= layers


def dtypes(module):
    return {parameter.dtype for parameter in module.parameters()}


@pytest.fixture(scope="module")
def half_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("half")
    bundle = tiny.make_bundle()
    bundle.module.to(torch.bfloat16).save_pretrained(path)
    bundle.tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "trainable", "role", "options", "expected"),
    [
        ({}, True, "policy", {}, torch.float32),
        ({"bf16": True}, True, "policy", {}, torch.bfloat16),
        ({}, False, "policy", {}, torch.float32),
        ({}, False, "policy", {"infer_dtype": "bfloat16"}, torch.bfloat16),
        ({"bf16": True}, False, "reference", {}, torch.bfloat16),
        ({}, False, "reference", {}, torch.float32),
    ],
)
def test_precision_of_a_bfloat16_checkpoint_on_the_cpu(
    half_folder, arguments, trainable, role, options, expected
):
    bundle = load(half_folder, arguments=arguments, trainable=trainable, role=role, **options)
    assert dtypes(bundle.module) == {expected}


def test_a_float32_checkpoint_loses_nothing_when_trained_with_bf16(folder):
    assert dtypes(load(folder, arguments={"bf16": True}).module) == {torch.float32}


def test_fp16_on_a_cpu_is_an_error(folder):
    with pytest.raises(TkError, match="fp16"):
        load(folder, arguments={"fp16": True})


def test_what_is_trained_keeps_no_cache_and_what_talks_does(folder):
    assert load(folder).module.config.use_cache is False
    assert load(folder, trainable=False).module.config.use_cache is True
    assert load(folder, trainable=False, use_kv_cache=False).module.config.use_cache is False


@pytest.mark.parametrize("role", ["reference", "reward", "teacher"])
def test_models_that_score_are_frozen_and_in_eval_mode(folder, role):
    module = load(folder, trainable=False, role=role).module
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(folder, reentrant):
    def gradients(**options):
        module = load(folder, **options).module
        module(IDS, labels=IDS).loss.backward()
        return module, [parameter.grad for parameter in module.parameters()]

    plain, expected = gradients()
    saved, got = gradients(disable_gradient_checkpointing=False, use_reentrant_gc=reentrant)
    assert not plain.is_gradient_checkpointing
    assert saved.is_gradient_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


def test_gradient_checkpointing_follows_the_training_argument(folder):
    assert load(folder, arguments={"gradient_checkpointing": True}).module.is_gradient_checkpointing
    assert not load(folder, arguments={"gradient_checkpointing": False}).module.is_gradient_checkpointing
    with pytest.raises(TkError, match="contradict"):
        load(folder, arguments={"gradient_checkpointing": True}, disable_gradient_checkpointing=True)


def test_a_pickle_is_refused_and_loads_with_permission(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "pickled")
    weights = load(folder).module.state_dict()
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    with pytest.raises(TkError, match=r"pytorch_model\.bin.*\n.*allow_pickle"):
        load(copy)
    again = load(copy, allow_pickle=True).module.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_an_adapter_folder_as_a_model_is_named_as_such(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "adapter")
    (copy / "model.safetensors").unlink()
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(TkError, match="adapter_name_or_path"):
        load(copy)


def test_damaged_weights_are_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "damaged")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(TkError, match="cannot be loaded"):
        load(copy)


def test_weights_that_are_missing_are_never_drawn_at_random(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "partial")
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TkError, match=r"layers\.1\.mlp\.up_proj"):
        load(copy)


def test_without_weights_none_need_be_there(folder, tmp_path):
    copy = edited(folder, tmp_path)
    (copy / "model.safetensors").unlink()
    request = ModelRequest(read_facts(str(copy)), ModelOptions(add_tokens="<new>"), weights=False)
    bundle = MODEL.load_model(request)
    assert bundle.module is None
    assert bundle.new_tokens == (len(bundle.tokenizer) - 1,)


def test_remote_code_is_refused_unless_transformers_has_its_own(folder, tmp_path, caplog):
    code = {"auto_map": {"AutoModelForCausalLM": "modeling_new.NewForCausalLM"}}
    assert load(edited(folder, tmp_path, **code)).module.config.model_type == "llama"
    unknown = edited(folder, tmp_path, model_type="brand_new", **code)
    with pytest.raises(TkError, match="trust_remote_code"):
        load(unknown)


def test_remote_code_runs_with_permission(folder, tmp_path):
    copy = edited(
        folder,
        tmp_path,
        model_type="brand_new",
        auto_map={
            "AutoConfig": "modeling_new.NewConfig",
            "AutoModelForCausalLM": "modeling_new.NewForCausalLM",
        },
    )
    (copy / "modeling_new.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class NewConfig(LlamaConfig):\n    model_type = 'brand_new'\n"
        "class NewForCausalLM(LlamaForCausalLM):\n    config_class = NewConfig\n"
    )
    assert type(load(copy, trust_remote_code=True).module).__name__ == "NewForCausalLM"


def test_a_hub_model_that_is_not_in_the_cache_says_how_to_get_it(tmp_path):
    from tkernel.types.facts import ModelFacts

    facts = ModelFacts("nobody/no-such-model", "hub", None, "llama")
    request = ModelRequest(facts, ModelOptions(cache_dir=str(tmp_path)))
    with pytest.raises(TkError, match="hf download nobody/no-such-model"):
        MODEL.load_model(request)


def test_a_hub_model_loads_from_the_cache(folder, tmp_path):
    from tkernel.types.facts import ModelFacts

    root = tmp_path / "models--me--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, root / "snapshots" / ("0" * 40))
    facts = ModelFacts("me/tiny", "hub", None, "llama")
    bundle = MODEL.load_model(ModelRequest(facts, ModelOptions(cache_dir=str(tmp_path))))
    assert torch.equal(bundle.module(IDS).logits, load(folder).module(IDS).logits)


@pytest.mark.parametrize(("name", "expected"), [("disabled", "eager"), ("sdpa", "sdpa"), ("auto", "sdpa")])
def test_flash_attn_chooses_the_attention(folder, name, expected):
    assert load(folder, flash_attn=name).module.config._attn_implementation == expected


@pytest.mark.parametrize("name", ["fa2", "fa3"])
def test_flash_attention_without_a_gpu_is_an_error(folder, name):
    with pytest.raises(TkError, match="flash_attn: auto"):
        load(folder, flash_attn=name)


def test_load_kwargs_of_an_extension_come_last(folder):
    bundle = load(folder, flash_attn="sdpa", load_kwargs={"attn_implementation": "eager"})
    assert bundle.module.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_rope_scaling_stretches_positions_to_model_max_length(folder, kind):
    bundle = load(folder, rope_scaling=kind, model_max_length=2000)
    config = bundle.module.config
    assert (config.max_position_embeddings, bundle.tokenizer.model_max_length) == (2000, 2000)
    assert config.rope_parameters["rope_type"] == kind
    assert config.rope_parameters["factor"] == 4.0
    assert bundle.module(torch.zeros(1, 600, dtype=torch.long)).logits.isfinite().all()


@pytest.mark.parametrize(
    ("cutoff", "trainable", "factor", "longest"),
    [(1000, True, 2.0, 1024), (1030, True, 3.0, 1536), (None, True, 4.0, 2048), (None, False, 2.0, 1024)],
)
def test_rope_scaling_without_a_length_follows_what_samples_need_as_llama_factory_does(
    folder, cutoff, trainable, factor, longest
):
    settings = {} if cutoff is None else {"cutoff_len": cutoff}
    config = load(folder, rope_scaling="linear", trainable=trainable, settings=settings).module.config
    assert (config.rope_parameters["factor"], config.max_position_embeddings) == (factor, longest)


def test_rope_scaling_is_left_out_where_samples_fit_and_refused_for_a_shorter_length(folder, caplog):
    config = load(folder, rope_scaling="yarn", settings={"cutoff_len": 512}).module.config
    assert config.max_position_embeddings == 512
    assert "rope_scaling is not needed" in caplog.text
    with pytest.raises(TkError, match="nothing to do"):
        load(folder, rope_scaling="yarn", model_max_length=100)


def test_moe_aux_loss_is_weighted_and_refused_where_there_is_no_router(folder, tmp_path):
    tiny.save_model(tmp_path, "mixtral")
    bundle = load(tmp_path, moe_aux_loss_coef=0.5)
    output = bundle.module(IDS, labels=IDS)
    assert bundle.module.config.router_aux_loss_coef == 0.5
    assert output.aux_loss > 0
    with pytest.raises(TkError, match="routed"):
        load(folder, moe_aux_loss_coef=0.5)


def test_train_from_scratch_draws_weights_from_the_seed(folder):
    first, second = (load(folder, train_from_scratch=True).module.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    stored = load(folder).module.state_dict()
    assert not torch.equal(first["model.embed_tokens.weight"], stored["model.embed_tokens.weight"])


def test_added_tokens_grow_the_embeddings_and_are_reported(folder):
    bundle = load(folder, add_tokens="zig,zag", add_special_tokens="<|mine|>")
    tokenizer, rows = bundle.tokenizer, bundle.module.get_input_embeddings().weight.shape[0]
    new = tokenizer.convert_tokens_to_ids(["zig", "zag", "<|mine|>"])
    assert bundle.new_tokens == tuple(new)
    assert tokenizer("zig<|mine|>")["input_ids"] == [new[0], new[2]]
    assert tokenizer.decode(new, skip_special_tokens=True).replace(" ", "") == "zigzag"
    assert rows >= len(tokenizer)
    assert rows % 64 == 0
    again = load(folder, add_tokens="zig,zag", add_special_tokens="<|mine|>")
    assert torch.equal(again.module(IDS).logits, bundle.module(IDS).logits)


def test_a_tokenizer_larger_than_the_embeddings_is_an_error_unless_they_may_grow(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "larger")
    tokenizer = tiny.make_tokenizer()
    tokenizer.add_tokens(["surplus"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(TkError, match="resize_vocab"):
        load(copy)
    assert load(copy, resize_vocab=True).new_tokens == (len(tokenizer) - 1,)


def test_split_special_tokens_cuts_their_text(folder):
    text = "<|im_start|>"
    assert len(load(folder).tokenizer(text)["input_ids"]) == 1
    assert len(load(folder, split_special_tokens=True).tokenizer(text)["input_ids"]) > 1


@pytest.mark.parametrize("option", ["use_fast_tokenizer", "low_cpu_mem_usage"])
def test_options_that_transformers_5_has_no_choice_about_say_so(folder, option, caplog):
    with caplog.at_level(logging.WARNING):
        load(folder, **{option: False})
    assert option in caplog.text


@pytest.mark.parametrize(("extra", "expected"), [(("[PAD]",), "[PAD]"), ((), "<|im_end|>")])
def test_a_tokenizer_without_padding_gets_a_padding_token_that_it_has(folder, tmp_path, extra, expected):
    copy = shutil.copytree(folder, tmp_path / "unpadded")
    tokenizer = tiny.make_tokenizer((*tiny.SPECIAL_TOKENS[: -len(extra) or None], *extra))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(copy)
    bundle = load(copy)
    assert (bundle.tokenizer.pad_token, bundle.tokenizer.padding_side) == (expected, "right")


def test_upcast_layernorm_keeps_norms_in_float32(half_folder):
    module = load(half_folder, arguments={"bf16": True}, upcast_layernorm=True).module
    kinds = {"norm" in name: parameter.dtype for name, parameter in module.named_parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_upcast_lmhead_output_gives_float32_logits(half_folder):
    assert load(half_folder, arguments={"bf16": True}).module(IDS).logits.dtype == torch.bfloat16
    module = load(half_folder, arguments={"bf16": True}, upcast_lmhead_output=True).module
    assert module(IDS).logits.dtype == torch.float32


def test_device_map_and_offload_folder_place_layers(folder, tmp_path):
    placed = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.norm": "disk", "lm_head": "cpu"}
    placed["model.rotary_emb"] = "cpu"
    bundle = load(folder, trainable=False, device_map=placed, offload_folder=str(tmp_path / "off"))
    assert bundle.module.hf_device_map["model.norm"] == "disk"
    assert torch.equal(bundle.module(IDS).logits, load(folder, trainable=False).module(IDS).logits)


def test_a_model_in_memory_cannot_be_loaded_again():
    with pytest.raises(TkError, match="in memory"):
        MODEL.load_model(ModelRequest(tiny.make_bundle().facts))


def test_a_processor_that_is_missing_is_an_error(tmp_path):
    tiny.save_model(tmp_path, "llava")
    for file in ("processor_config.json", "preprocessor_config.json"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(TkError, match="processor"):
        load(tmp_path)


def test_an_adapter_beside_the_weights_is_not_put_into_the_model_unasked(folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    both = tmp_path / "both"
    shutil.copytree(folder, both)
    get_peft_model(tiny.make_model("llama"), LoraConfig(target_modules=["q_proj"])).save_pretrained(both)
    with pytest.raises(TkError, match="holds an adapter beside the model") as caught:
        load(both)
    assert "adapter_name_or_path" in caught.value.hint
