"""`dpo`, `kto` and `rm` on tiny models: ways to the same numbers, references, heads, resuming."""

from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tkernel import Conversation
from tkernel.errors import TkError
from tkernel.testing import FeedbackStageContract, PreferenceStageContract
from tkernel.testing.stages import SAID
from tkernel.types.check import CheckRequest
from tkernel_plugins.stages import dpo, kto, rm
from tkernel_plugins.training import memory, score_head, value_head

FOUR = {"max_steps": 4, "per_device_train_batch_size": 2}


def adapted(bundle, **config):
    """With a LoRA adapter whose B is not zero if `init_lora_weights` is False."""
    torch.manual_seed(0)
    given = {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    return bundle.replace(module=get_peft_model(bundle.module, LoraConfig(**given)).train())


class Adapted:
    """With an adapter on the suite's tiny model."""

    has_reference = False
    config = {}

    def bundle(self):
        bundle = super().bundle()
        bundle.module.requires_grad_(False)
        return adapted(bundle, **self.config)


class Dpo(Adapted, PreferenceStageContract):
    plugin = dpo.STAGE


class Kto(Adapted, FeedbackStageContract):
    plugin = kto.STAGE


class Rm(Adapted, PreferenceStageContract):
    plugin = rm.STAGE


class Whole(Dpo):
    """All parameters are trained."""

    def bundle(self):
        bundle = PreferenceStageContract.bundle(self)
        bundle.module.requires_grad_(True)
        return bundle


def losses(logs):
    return [entry["loss"] for entry in logs if "loss" in entry]


def said(capsys, word):
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith(word)]


@pytest.mark.parametrize("suite", [Dpo, Kto, Rm])
def test_a_row_without_padding_trains_like_padded_sequences(suite, tmp_path):
    series = [
        losses(suite().run(tmp_path / str(joined), train=SAID, options={"join_pairs": joined}, **FOUR)[1])
        for joined in (True, False)
    ]
    assert series[0] == pytest.approx(series[1], rel=1e-4)
    assert len(set(series[0])) == 4


def test_activations_that_are_computed_twice_change_no_loss(tmp_path):
    series = [
        losses(Dpo().run(tmp_path / str(twice), train=SAID, gradient_checkpointing=twice, **FOUR)[1])
        for twice in (True, False)
    ]
    assert series[0] == pytest.approx(series[1], rel=1e-5)


@pytest.mark.parametrize("suite", [Dpo, Kto, Rm])
def test_activations_that_do_not_fit_are_computed_twice(suite, tmp_path, monkeypatch, capsys):
    series = []
    for free in (2**40, 2**10):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        series.append(losses(suite().run(tmp_path / str(free), train=SAID, **FOUR)[1]))
        assert len(said(capsys, "memory     activations")) == (free == 2**10)
    assert series[0] == pytest.approx(series[1], rel=1e-5)


@pytest.mark.parametrize(("suite", "first"), [(Dpo, math.log(2)), (Kto, 0.5)])
def test_the_reference_is_the_model_without_its_adapter(suite, first, tmp_path):
    """A fresh adapter is the identity, so the first loss is that of equal log-probabilities."""
    _, logs = suite().run(tmp_path, train=SAID, **FOUR)
    assert losses(logs)[0] == pytest.approx(first, abs=1e-6)
    assert abs(losses(logs)[-1] - first) > 1e-4


def test_an_adapter_that_is_trained_further_has_the_base_as_its_reference(tmp_path):
    class Further(Dpo):
        config = {"init_lora_weights": False}

    suite = Further()
    bundle, base = suite.bundle(), PreferenceStageContract.bundle(suite)
    expected = []
    for row in suite.rows(SAID[:4]):
        chosen, rejected = (suite.reply(bundle, base, row, side) for side in ("chosen", "rejected"))
        expected.append(suite.pair_loss(chosen, rejected).item())
    _, logs = suite.run(tmp_path, max_steps=1, per_device_train_batch_size=4)
    assert losses(logs)[0] == pytest.approx(sum(expected) / 4, rel=1e-4)


# The first of the evaluation data of KTO is mismatched with another completion than in training.
@pytest.mark.parametrize(("suite", "new"), [(Dpo, 8), (Kto, 9), (Whole, 8)])
def test_a_reference_that_was_asked_before_gives_the_same_bits(suite, new, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    _, logs = suite().run(tmp_path / "asked", train=SAID, evaluate=SAID[:3], **FOUR)
    expected = losses(logs)
    for computed in (f"{new} of 11", "0 of 11"):
        options = {"precompute_ref_log_probs": True}
        folder = tmp_path / computed[0]
        _, logs = suite().run(folder, train=SAID, evaluate=SAID[:3], options=options, **FOUR)
        assert losses(logs) == expected
        assert computed in said(capsys, "reference")[-1]


def test_what_a_killed_process_wrote_of_the_reference_is_used_up_to_its_last_whole_record(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))
    options = {"precompute_ref_log_probs": True}
    Dpo().run(tmp_path / "one", train=SAID, options=options, **FOUR)
    (file,) = (tmp_path / "cache" / "reference").glob("*/*.bin")
    file.write_bytes(file.read_bytes()[: 3 * 32 + 5])
    Dpo().run(tmp_path / "two", train=SAID, options=options, **FOUR)
    assert "5 of 8" in said(capsys, "reference")[-1]


def test_other_weights_have_another_reference(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TK_CACHE_DIR", str(tmp_path / "cache"))

    class Other(Whole):
        def bundle(self):
            bundle = super().bundle()
            with torch.no_grad():
                bundle.module.lm_head.weight[0, 0] += 1e-3
            return bundle

    for suite in (Whole, Other):
        options = {"precompute_ref_log_probs": True}
        suite().run(tmp_path / suite.__name__, train=SAID, options=options, **FOUR)
        assert "8 of 8" in said(capsys, "reference")[-1]


def test_length_desensitised_tokens_weigh_alpha_beyond_the_shorter_reply(tmp_path):
    """LD-DPO: a token of the policy that the other reply has no counterpart of counts `ld_alpha`."""
    suite = Dpo()
    bundle = suite.bundle()
    row = suite.rows(SAID[:1])[0]
    ids = []
    for side in ("chosen", "rejected"):
        conversation = suite.renderer(bundle).encode(
            [Conversation.from_row({**row, "messages": [*row["messages"], *row[side]]})]
        )[0]
        ids.append((conversation.input_ids, conversation.labels))
    shorter = min(sum(label != -100 for label in labels) for _, labels in ids)
    policy, reference = [], []
    for tokens, labels in ids:
        given, wanted = torch.tensor([tokens]), torch.tensor(labels[1:])
        logps = bundle.module(input_ids=given).logits[0, :-1].log_softmax(-1)
        own = logps.gather(1, wanted.clamp(min=0)[:, None])[:, 0][wanted != -100]
        policy.append(own[:shorter].sum() + 0.25 * own[shorter:].sum())
        reference.append(own.sum())
    margin = (policy[0] - reference[0]) - (policy[1] - reference[1])
    expected = -torch.nn.functional.logsigmoid(0.1 * margin).item()
    options = {"ld_alpha": 0.25}
    _, logs = suite.run(tmp_path, train=SAID[:1], options=options, max_steps=1, per_device_train_batch_size=1)
    assert losses(logs)[0] == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(math.log(2), abs=1e-3)


def test_a_resumed_run_goes_on_with_the_baseline_of_bco(tmp_path):
    options = {"pref_bco_weight": 0.5}
    saving = {"save_strategy": "steps", "save_steps": 2, **FOUR}
    _, logs = Dpo().run(tmp_path / "whole", train=SAID, options=options, **saving)
    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    _, rest = Dpo().run(
        tmp_path / "rest", train=SAID, options=options, resume_from_checkpoint=checkpoint, **saving
    )
    assert losses(rest)[-2:] == losses(logs)[-2:]


def test_next_token_loss_is_added_for_the_chosen_reply(tmp_path):
    _, plain = Dpo().run(tmp_path / "plain", train=SAID[:1], max_steps=1)
    _, sft = Dpo().run(tmp_path / "sft", train=SAID[:1], options={"pref_loss": "sft"}, max_steps=1)
    _, both = Dpo().run(tmp_path / "both", train=SAID[:1], options={"pref_ftx": 0.5}, max_steps=1)
    assert losses(both)[0] == pytest.approx(losses(plain)[0] + 0.5 * losses(sft)[0], rel=1e-5)


# -- reward models ---------------------------------------------------------------------------------


def scores_of(model, suite, rows):
    bundle = suite.bundle()
    found = []
    for row in rows:
        for side in ("chosen", "rejected"):
            given = {**row, "messages": [*row["messages"], *row[side]]}
            (encoded,) = suite.renderer(bundle).encode([Conversation.from_row(given)])
            found.append(model({"input_ids": torch.tensor([encoded.input_ids])}))
    return torch.stack(found).view(-1, 2)


@pytest.mark.parametrize("whole", [False, True])
def test_a_classification_head_is_saved_as_transformers_and_peft_load_it(whole, tmp_path):
    suite = Rm()
    if whole:
        suite.bundle = Whole().bundle
    options = {"reward_head": "classification"}
    result, _ = suite.run(tmp_path / "out", train=SAID, options=options, **FOUR)
    trained = result.bundle.module.eval()
    base = Whole().bundle().module
    if whole:
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    else:
        base.save_pretrained(tmp_path / "base")
        padding = AutoTokenizer.from_pretrained(tmp_path / "out").pad_token_id
        classifier = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "base", num_labels=1, pad_token_id=padding
        )
        loaded = PeftModel.from_pretrained(classifier, tmp_path / "out")
    loaded = loaded.eval()
    rows = suite.rows(SAID[:3])
    with torch.no_grad():
        ours = scores_of(lambda inputs: value_head.last_values(trained, inputs)[0], suite, rows)
        theirs = scores_of(lambda inputs: loaded(**inputs).logits[0, 0], suite, rows)
    torch.testing.assert_close(ours, theirs)


def test_a_classification_head_is_resumed_and_loads_as_a_head_again(tmp_path):
    options = {"reward_head": "classification"}
    saving = {"save_strategy": "steps", "save_steps": 2, **FOUR}
    for name, suite in (("adapter", Rm()), ("whole", Rm())):
        if name == "whole":
            suite.bundle = Whole().bundle
        whole, logs = suite.run(tmp_path / name, train=SAID, options=options, **saving)
        checkpoint = str(tmp_path / name / "checkpoint-2")
        changes = {"options": options, "resume_from_checkpoint": checkpoint, **saving}
        again, rest = suite.run(tmp_path / f"{name} again", train=SAID, **changes)
        assert losses(rest)[-2:] == losses(logs)[-2:]
        head = value_head.head_of(whole.bundle.module)
        assert value_head.head_of(again.bundle.module).weight.equal(head.weight)
        assert score_head.load(suite.bundle().module, tmp_path / name).weight.equal(head.weight)


def test_scores_of_the_evaluation_data_are_written_line_by_line(tmp_path):
    result, _ = Rm().run(tmp_path, train=SAID, evaluate=SAID[:3], do_predict=True, **FOUR)
    lines = [json.loads(line) for line in (tmp_path / "generated_predictions.jsonl").read_text().splitlines()]
    suite = Rm()
    with torch.no_grad():
        expected = scores_of(
            lambda inputs: value_head.last_values(result.bundle.module.eval(), inputs)[0],
            suite,
            suite.rows(SAID[:3]),
        )
    found = torch.tensor([[line["chosen"], line["rejected"]] for line in lines])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    accuracy = sum(line["chosen"] > line["rejected"] for line in lines) / 3
    assert result.metrics["eval_accuracy"] == pytest.approx(accuracy)


def test_a_reward_model_that_is_trained_further_keeps_its_head(tmp_path, capsys):
    result, _ = Rm().run(tmp_path / "first", train=SAID, **FOUR)
    head = value_head.head_of(result.bundle.module)
    model = AutoModelForCausalLM.from_config(Whole().bundle().module.config)
    assert value_head.load(model, tmp_path / "first").summary.weight.equal(head.summary.weight)


# -- what is found while planning ------------------------------------------------------------------


def problems(stage, settings=None, **options):
    request = CheckRequest(options=stage.Options(**options), settings=settings or {}, train=("d",))
    return {problem.key: problem.message for problem in stage.check(request)}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"pref_loss": "sigmiod"}, "pref_loss"),
        ({"pref_loss": "orpo", "ref_model": "m"}, "ref_model"),
        ({"pref_loss": "simpo", "ld_alpha": 0.5}, "ld_alpha"),
        ({"pref_loss": "orpo", "pref_ftx": 1.0}, "pref_ftx"),
        ({"pref_loss": "simpo", "pref_bco_weight": 1.0}, "pref_bco_weight"),
        ({"pref_loss": "hinge", "dpo_label_smoothing": 0.1}, "dpo_label_smoothing"),
        ({"pref_loss": "exo_pair"}, "dpo_label_smoothing"),
        ({"pref_loss": "orpo", "precompute_ref_log_probs": True}, "precompute_ref_log_probs"),
        ({"ref_model_adapters": ("a",)}, "ref_model_adapters"),
    ],
)
def test_options_that_mean_nothing_together_are_found_while_planning(options, key):
    assert list(problems(dpo.STAGE, **options)) == [key]


def test_a_stream_cannot_be_asked_about_before_it_ends():
    found = problems(dpo.STAGE, {"streaming": True}, precompute_ref_log_probs=True)
    assert list(found) == ["precompute_ref_log_probs"]


@pytest.mark.parametrize("name", ["sigmoid", "orpo", "simpo", "kto_pair", "ipo", "./loss.py:fn"])
def test_what_goes_together_is_no_problem(name):
    assert problems(dpo.STAGE, pref_loss=name) == {}
    assert problems(kto.STAGE) == {}
    assert problems(rm.STAGE) == {}


def test_a_reference_that_cannot_be_loaded_is_an_error(tmp_path):
    suite = Dpo()
    suite.other_model = None
    with pytest.raises(TkError, match="nothing to load"):
        suite.run(tmp_path, options={"ref_model": "m"}, **FOUR)


@pytest.mark.parametrize("stage", [dpo.STAGE, kto.STAGE])
def test_stages_without_predictions_say_so(stage):
    request = CheckRequest(options=stage.Options(), arguments={"do_predict": True}, eval=("d",))
    assert "do_predict" in [problem.key for problem in stage.check(request)]
