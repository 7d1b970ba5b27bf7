"""`tk export`: what is merged and saved is what was trained, and any tool can load it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import tkernel
from tkernel.testing import tiny

ROWS = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": "yes"}]}
    for n in range(8)
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model, a LoRA adapter that was trained on it with a template that adds tokens, and a merge file."""
    folder = tmp_path_factory.mktemp("export")
    tiny.save_model(folder / "model")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    common = {"model_name_or_path": str(folder / "model"), "template": "chatml", "finetuning_type": "lora"}
    for number, name in enumerate(("first", "second")):
        done = {"adapter_name_or_path": str(folder / "first"), "create_new_adapter": True} if number else {}
        tkernel.run(
            {**common, **done, "dataset": str(folder / "rows.jsonl"), "output_dir": str(folder / name)}
            | {"max_steps": 6, "learning_rate": 0.05, "lora_rank": 4, "save_strategy": "no", "cutoff_len": 64}
        )
    (folder / "merge.yaml").write_text(
        f"model_name_or_path: {folder / 'model'}\nadapter_name_or_path: {folder / 'first'}\n"
        f"template: chatml\nfinetuning_type: lora\nexport_dir: {folder / 'merged'}\nexport_size: 2\n"
        "export_device: cpu\nexport_legacy_format: false\n"
    )
    return folder


def tk(*words: str, cwd: Path | None = None):
    command = [str(Path(sys.executable).with_name("tk")), *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def merged(trained):
    done = tk("export", str(trained / "merge.yaml"), "--verify")
    return SimpleNamespace(done=done, folder=trained / "merged", root=trained)


def test_a_merge_file_of_llamafactory_is_merged_and_verified(merged):
    assert merged.done.returncode == 0, merged.done.stderr
    assert "verified on 4 prompts: mean divergence" in merged.done.stdout
    names = {path.name for path in merged.folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "generation_config.json"} <= names
    assert {"chat_template.jinja", "README.md", "export.lock.json", "Modelfile"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt"))]


def test_the_weights_are_those_of_peft_s_own_merge(merged):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(merged.root / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(merged.folder)
    if len(tokenizer) > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(len(tokenizer))
    expected = PeftModel.from_pretrained(base, merged.root / "first").merge_and_unload()
    found = AutoModelForCausalLM.from_pretrained(merged.folder, dtype=torch.float32)
    ids = torch.tensor([tokenizer.encode("say 3")])
    torch.testing.assert_close(found(ids).logits, expected(ids).logits)


def test_the_saved_chat_template_is_that_of_the_run(merged):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(merged.folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    config = json.loads((merged.folder / "generation_config.json").read_text())
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in config["eos_token_id"]


def test_several_adapters_are_merged_in_their_order(merged, tmp_path):
    both = f"{merged.root / 'first'},{merged.root / 'second'}"
    target = tmp_path / "both"
    done = tk(
        "export",
        str(merged.root / "merge.yaml"),
        f"adapter_name_or_path={both}",
        f"export_dir={target}",
        "--verify",
    )
    assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / "model.safetensors") for folder in (merged.folder, target))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_weights_are_saved_in_the_precision_that_is_asked_for(merged, tmp_path):
    target = tmp_path / "half"
    done = tk(
        *("export", str(merged.root / "merge.yaml"), "--infer_dtype", "bfloat16"),
        *("--export_dir", str(target), "--verify"),
    )
    assert done.returncode == 0, done.stderr
    assert {tensor.dtype for tensor in load_file(target / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"


def test_past_the_bound_nothing_is_left_behind(merged, tmp_path):
    target = tmp_path / "far"
    done = tk(
        *("export", str(merged.root / "merge.yaml"), "--infer_dtype", "bfloat16", "--verify"),
        *("--export_dir", str(target), "--export_bound", "1e-12"),
    )
    assert done.returncode == 1
    assert "the exported model differs from the adapted one: mean divergence" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_only_if_that_is_asked_for(merged, tmp_path):
    target = tmp_path / "again"
    shutil.copytree(merged.folder, target)
    words = ("export", str(merged.root / "merge.yaml"), f"export_dir={target}")
    refused = tk(*words)
    assert refused.returncode == 1
    assert "holds an earlier export" in refused.stderr
    (target / "stale.txt").write_text("")
    assert tk(*words, "export_overwrite=true").returncode == 0
    assert not (target / "stale.txt").exists()


def test_a_folder_with_other_files_is_never_replaced(merged, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    done = tk("export", str(merged.root / "merge.yaml"), f"export_dir={tmp_path}", "export_overwrite=true")
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert (tmp_path / "mine.txt").exists()


def test_the_head_of_a_reward_model_goes_with_it(merged, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(merged.root / "first", adapter)
    save_file({"v_head.summary.weight": torch.ones(1, 32)}, adapter / "value_head.safetensors")
    target = tmp_path / "reward"
    done = tk(
        "export", str(merged.root / "merge.yaml"), f"adapter_name_or_path={adapter}", f"export_dir={target}"
    )
    assert done.returncode == 0, done.stderr
    assert (target / "value_head.safetensors").read_bytes() == (
        adapter / "value_head.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_reward_model_for_classification_is_exported_as_one(merged, tmp_path, method):
    """Merged and loaded by transformers it scores as the run did that trained it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    pairs = {"prompt": "Say hi", "chosen": "hi there", "rejected": "no"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pairs) + "\n")
    data = {name: str(tmp_path / "pairs.jsonl") for name in ("dataset", "eval_dataset")}
    settings = {"model_name_or_path": str(merged.root / "model"), "stage": "rm", "template": "chatml"}
    trained, target = tmp_path / "trained", tmp_path / "exported"
    tkernel.run(
        {**settings, **data, "reward_head": "classification", "finetuning_type": method}
        | {"output_dir": str(trained), "do_train": True, "do_predict": True}
        | {"max_steps": 2, "learning_rate": 0.01, "save_strategy": "no"}
    )
    named = "model_name_or_path" if method == "full" else "adapter_name_or_path"
    words = [f"{key}={value}" for key, value in {**settings, named: trained, "export_dir": target}.items()]
    done = tk("export", *words, "--verify")
    assert done.returncode == 0, done.stderr
    assert "mean difference of scores" in done.stdout
    assert "pipeline_tag: text-classification" in (target / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForSequenceClassification.from_pretrained(target)
    talk = [{"role": "user", "content": "Say hi"}, {"role": "assistant", "content": "hi there"}]
    ids = tokenizer.apply_chat_template(talk, return_tensors="pt", return_dict=True).input_ids
    score = json.loads((trained / "generated_predictions.jsonl").read_text().splitlines()[0])["chosen"]
    assert model(ids).logits.item() == pytest.approx(score, abs=1e-4)
    bound = ("infer_dtype=bfloat16", "export_bound=1e-12")
    half = tk("export", *words, "--verify", f"export_dir={tmp_path / 'far'}", *bound)
    assert half.returncode == 1
    assert "differs from the adapted one: mean difference of scores" in half.stderr


def test_rounding_in_memory_gives_the_model_that_is_loaded_back(merged, tmp_path):
    """Rotary frequencies stay in float32, and so do layers that the family keeps in it."""
    from transformers import AutoModelForCausalLM

    from tkernel_plugins.exporting.rounding import round_weights

    model = AutoModelForCausalLM.from_pretrained(merged.folder, dtype=torch.float32)
    ids = torch.arange(60)[None] % 50
    round_weights(model, torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert again.dtype == torch.bfloat16
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    model.float()._keep_in_fp32_modules_strict = {"norm"}
    round_weights(model, torch.bfloat16)
    assert (model.model.norm.weight.dtype, model.lm_head.weight.dtype) == (torch.float32, torch.bfloat16)


def test_mistakes_are_told_while_planning(merged):
    done = tk(
        "export", str(merged.root / "merge.yaml"), "--export_legacy_format", "true", "--export_siz", "3"
    )
    assert done.returncode == 2
    assert "export_legacy_format: true would write pickles" in done.stderr
    assert "Did you mean 'export_size'?" in done.stderr
    missing = tk("export", f"model_name_or_path={merged.root / 'model'}")
    assert missing.returncode == 2
    assert "export_dir is not set" in missing.stderr


def test_its_keys_are_no_other_command_s(merged):
    done = tk("plan", str(merged.root / "merge.yaml"))
    assert done.returncode == 2
    assert "export_dir belongs to command:export" in done.stderr
    assert "or use `tk export`" in done.stderr


def test_a_model_without_adapters_is_exported_as_it_is(merged, tmp_path):
    target = tmp_path / "plain"
    done = tk(
        "export", f"model_name_or_path={merged.root / 'model'}", f"export_dir={target}", "template=chatml"
    )
    assert done.returncode == 0, done.stderr
    before = load_file(merged.root / "model" / "model.safetensors")
    after = load_file(target / "model.safetensors")
    assert all(torch.equal(before[name], after[name][: len(before[name])]) for name in before)
