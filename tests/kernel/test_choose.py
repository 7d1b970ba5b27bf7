"""Who answers a hook: pinned, preferred, matched, default; everything else is an error that helps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from distributions import Site, written

from tkernel.activate import Loader
from tkernel.choose import choose
from tkernel.doors import open_doors
from tkernel.errors import AmbiguousProvider, BrokenPlugin, NoProvider, TkError, UnusedPlugin
from tkernel.index import Entry
from tkernel.pins import Pins, Wanted, use_names
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts
from tkernel.types.plan import Plan

LLAMA = ModelFacts("m", "folder", "/m", "llama", chat_template="{{ messages }}")


def pins(*names: str, uses: tuple[str, ...] = ()) -> Pins:
    return Pins(
        tuple(Wanted(name, "train.yaml:9") for name in names),
        tuple(Wanted(use, "train.yaml:8") for use in uses),
    )


def static(site: Site) -> Callable[[Entry], Any]:
    """Loads what has a module; plugins that a test only names in metadata have no static facts."""
    loader = Loader()
    return lambda e: loader(e) if (site.folder / f"{e.target.partition(':')[0]}.py").exists() else None


def plan_of(
    site: Site,
    *names: str,
    facts: ModelFacts | None = LLAMA,
    uses: tuple[str, ...] = (),
    datasets: Sequence[DatasetEntry] = (),
    **keys: Wanted,
) -> Plan:
    index = open_doors(names, site.index)
    plan, errors = choose(written(**keys), datasets, facts, index, pins(*names, uses=uses), static(site))
    assert errors == []
    return plan


def errors_of(
    site: Site,
    *names: str,
    facts: ModelFacts | None = LLAMA,
    uses: tuple[str, ...] = (),
    datasets: Sequence[DatasetEntry] = (),
    **keys: Wanted,
) -> list[TkError]:
    return choose(written(**keys), datasets, facts, site.index, pins(*names, uses=uses), static(site))[1]


def chosen(plan: Plan, kind: str, subject: str | None = None) -> tuple[str, str, str, str]:
    choice = plan.chosen(kind, subject)
    assert choice is not None
    return choice.name, choice.distribution, choice.how, choice.reason


# -- the four rules --------------------------------------------------------------------------------


def test_defaults_and_what_the_model_type_matches(site: Site) -> None:
    site.built_ins()
    plan = plan_of(site)
    assert [(c.hook, c.kind, c.name, c.how, c.reason) for c in plan.choices] == [
        ("load_model", "model", "llama", "matched", "model_type is llama"),
        ("adapt", "adapter", "lora", "default", "default of adapters"),
        ("render_template", "template", "auto", "default", "the model brings its chat template"),
        ("train_stage", "stage", "sft", "default", "default of stages"),
        ("generate", "engine", "huggingface", "default", "default of engines"),
    ]
    assert plan.extensions == ()


def test_an_unknown_model_type_is_served_by_the_default(site: Site) -> None:
    site.built_ins()
    plan = plan_of(site, facts=ModelFacts("m", "folder", "/m", "novel", chat_template="x"))
    assert chosen(plan, "model") == (
        "huggingface",
        "tkernel",
        "default",
        "default of models (novel has none)",
    )


def test_a_model_without_a_chat_template_gets_the_one_its_plugin_names(site: Site) -> None:
    site.built_ins()
    plan = plan_of(site, facts=ModelFacts("m", "folder", "/m", "llama"))
    assert chosen(plan, "template") == (
        "chatml",
        "tkernel",
        "matched",
        "the model brings none; model:llama of tkernel 1.0.0 names it",
    )


def test_settings_pin_and_the_reason_says_where(site: Site) -> None:
    site.built_ins()
    plan = plan_of(
        site,
        finetuning_type=Wanted("full", "train.yaml:3"),
        template=Wanted("chatml", "--template"),
        datasets=(DatasetEntry("d", "d", formatting="alpaca", origin="dataset_info.json:4"),),
    )
    assert chosen(plan, "adapter") == ("full", "tkernel", "pinned", "finetuning_type: full at train.yaml:3")
    assert chosen(plan, "template")[2:] == ("pinned", "template: chatml at --template")
    assert chosen(plan, "dataset", "d")[2:] == ("pinned", "formatting: alpaca at dataset_info.json:4")


def test_a_dataset_is_matched_by_its_first_column_that_is_registered(site: Site) -> None:
    site.built_ins()
    plan = plan_of(site, datasets=(DatasetEntry("d", "d", seen=("id", "instruction", "alpaca")),))
    assert chosen(plan, "dataset", "d") == (
        "instruction",
        "tkernel",
        "matched",
        "the first row has a column 'instruction'",
    )


def test_installing_an_accelerator_changes_nothing_until_it_is_named(site: Site) -> None:
    site.built_ins()
    before = plan_of(site)
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}, "engine": {"fast": "E"}}, "raise SystemExit")
    assert plan_of(site) == before


@pytest.mark.parametrize("name", ["fast", "tk-fast", "tk_fast"])
def test_a_variant_answers_when_it_is_preferred(site: Site, name: str) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}})
    plan = plan_of(site, name, finetuning_type=Wanted("lora", "train.yaml:3"))
    assert chosen(plan, "adapter") == (
        "lora.fast",
        "tk-fast",
        "preferred",
        f"finetuning_type: lora at train.yaml:3, and {name} (train.yaml:9) is preferred",
    )
    assert chosen(plan_of(site, name), "adapter")[:3] == ("lora.fast", "tk-fast", "preferred")


def test_a_variant_of_a_model_answers_for_its_family_alone(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"model": {"llama.fast": "M"}})
    assert chosen(plan_of(site, "fast"), "model")[:2] == ("llama.fast", "tk-fast")
    other = ModelFacts("m", "folder", "/m", "mamba", chat_template="x")
    assert [type(error) for error in errors_of(site, "fast", facts=other)] == [UnusedPlugin]


def test_a_preferred_distribution_answers_every_hook_it_has_one_plugin_for(site: Site) -> None:
    site.built_ins()
    site.distribution(
        "tk-x", {"adapter": {"x": "A"}, "engine": {"x": "E"}, "template": {"x1": "T", "x2": "U"}}
    )
    plan = plan_of(site, "x")
    assert [chosen(plan, kind)[0] for kind in ("adapter", "engine", "template")] == ["x", "x", "auto"]
    assert chosen(plan, "engine")[2:] == ("preferred", "x (train.yaml:9) is preferred")


def test_a_setting_goes_before_a_preference(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-x", {"adapter": {"x": "A"}, "engine": {"x": "E"}})
    plan = plan_of(site, "x", finetuning_type=Wanted("full", "train.yaml:3"))
    assert [chosen(plan, kind)[0] for kind in ("adapter", "engine")] == ["full", "x"]


def test_a_preferred_model_plugin_serves_other_families_only_if_it_accepts_them(site: Site) -> None:
    site.built_ins()
    site.distribution(
        "tk-x",
        {"model": {"x": "X"}},
        """
        from built_in import Model
        X = Model("x", accepts=lambda facts: facts.model_type == "llama")
        """,
    )
    assert chosen(plan_of(site, "x"), "model")[:3] == ("x", "tk-x", "preferred")
    other = ModelFacts("m", "folder", "/m", "mamba", chat_template="x")
    assert [type(error) for error in errors_of(site, "x", facts=other)] == [UnusedPlugin]


def test_naming_one_plugin_by_kind_goes_before_a_preferred_distribution(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}, "model": {"llama.fast": "M"}})
    plan = plan_of(site, "fast", "model:llama")
    assert chosen(plan, "model")[:2] == ("llama", "tkernel")
    assert chosen(plan, "adapter")[:2] == ("lora.fast", "tk-fast")


def test_preferring_the_kernel_itself_changes_nothing_where_there_is_no_tie(site: Site) -> None:
    site.built_ins()
    for facts in (LLAMA, ModelFacts("m", "folder", "/m", "llama"), ModelFacts("m", "folder", "/m", "novel")):
        names = [c.name for c in plan_of(site, facts=facts).choices]
        assert [c.name for c in plan_of(site, "tkernel", facts=facts).choices] == names


# -- ties ------------------------------------------------------------------------------------------


def test_two_distributions_with_one_name_are_an_error_with_the_line_to_add(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-other", {"template": {"chatml": "T"}, "model": {"llama": "M"}}, version="0.3")
    errors = errors_of(site, template=Wanted("chatml", "train.yaml:3"))
    assert [type(error) for error in errors] == [AmbiguousProvider, AmbiguousProvider]
    assert [str(error) for error in errors] == [
        "model:llama can be answered by tk-other 0.3 and tkernel 1.0.0.\n"
        "  Write `plugins: [tk-other:llama]` or `plugins: [tkernel:llama]`.",
        "train.yaml:3: template:chatml can be answered by tk-other 0.3 and tkernel 1.0.0.\n"
        "  Write `template: tk-other:chatml` or `template: tkernel:chatml`.",
    ]


def test_the_lines_of_that_error_settle_the_tie(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-other", {"template": {"chatml": "T"}, "model": {"llama": "M"}})
    plan = plan_of(site, "tkernel:llama", template=Wanted("tk-other:chatml", "train.yaml:3"))
    assert chosen(plan, "template")[:3] == ("chatml", "tk-other", "pinned")
    assert chosen(plan, "model")[:3] == ("llama", "tkernel", "preferred")


def test_preferring_or_blocking_a_distribution_settles_a_tie(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-other", {"adapter": {"lora": "A"}})
    wanted = Wanted("lora", "train.yaml:3")
    assert chosen(plan_of(site, "tk-other", finetuning_type=wanted), "adapter")[:3] == (
        "lora",
        "tk-other",
        "pinned",
    )
    assert chosen(plan_of(site, "tkernel", finetuning_type=wanted), "adapter")[1] == "tkernel"
    assert chosen(plan_of(site, "no:tk-other", finetuning_type=wanted), "adapter")[1] == "tkernel"


def test_a_hint_is_spelled_as_the_preference_was_written(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-a", {"extension": {"loud": "E"}})
    site.distribution("tk-b", {"extension": {"loud": "E"}})
    wanted = Pins((Wanted("loud", "--plugin"),))
    errors = choose(written(), (), LLAMA, site.index, wanted, static(site))[1]
    assert "Write `--plugin tk-a:loud` or `--plugin tk-b:loud`." in str(errors[0])


def test_two_preferred_equals_are_an_error(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-a", {"adapter": {"lora.a": "A"}})
    site.distribution("tk-b", {"adapter": {"lora.b": "A"}})
    (error,) = errors_of(site, "a", "b")
    assert str(error) == (
        "train.yaml:9: adapter:lora.a and adapter:lora.b can be answered by tk-a 0.1 and tk-b 0.1.\n"
        "  Prefer only one of them."
    )


# -- blocking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["no:tk-x", "no:x", "no:engine:huggingface", "no:tkernel:huggingface"])
def test_a_blocked_plugin_is_not_chosen(site: Site, block: str) -> None:
    site.built_ins()
    site.distribution("tk-x", {"engine": {"x": "E"}})
    wanted = "x" if "x" in block.split(":")[1] else "huggingface"
    errors = errors_of(site, block, infer_backend=Wanted(wanted, "train.yaml:3"))
    owner = "tk-x 0.1" if wanted == "x" else "tkernel 1.0.0"
    assert str(errors[-1]) == (
        f"train.yaml:3: engine:{wanted} of {owner} is needed and blocked by {block} (train.yaml:9).\n"
        f"  Take out `{block}`."
    )


def test_asking_for_what_is_blocked_is_an_error(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-x", {"engine": {"x": "E"}})
    (error,) = errors_of(site, "x", "no:tk-x")
    assert str(error) == (
        "train.yaml:9: engine:x of tk-x 0.1 is asked for and blocked by no:tk-x (train.yaml:9).\n"
        "  Take out one of the two."
    )


# -- nobody answers --------------------------------------------------------------------------------


def test_a_mistyped_name_lists_near_misses_and_what_is_there(site: Site) -> None:
    site.built_ins()
    (error,) = errors_of(site, template=Wanted("chatmll", "train.yaml:3"))
    assert isinstance(error, NoProvider)
    assert str(error) == (
        "train.yaml:3: no installed plugin is template:chatmll.\n  Did you mean 'chatml'?\n  Installed: auto, chatml."
    )


def test_of_many_names_some_are_listed_with_the_command_for_the_rest(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-many", {"template": {f"t{number:02}": "T" for number in range(30)}})
    (error,) = errors_of(site, template=Wanted("chatmll"))
    assert str(error).endswith(", t17 and 12 more (tk plugins list template).")


def test_a_name_like_no_other_gets_the_pip_command(site: Site) -> None:
    site.built_ins()
    (error,) = errors_of(site, stage=Wanted("grpo_x", "train.yaml:3"))
    assert str(error) == (
        "train.yaml:3: no installed plugin is stage:grpo_x.\n"
        "  If a distribution of its own provides it: pip install tk-grpo-x\n"
        "  Installed: sft."
    )


def test_a_variant_cannot_be_pinned(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}})
    (error,) = errors_of(site, finetuning_type=Wanted("lora.fast", "train.yaml:3"))
    assert str(error) == (
        "train.yaml:3: adapter:lora.fast is a variant, used when fast is preferred.\n"
        "  Write `finetuning_type: lora` and `plugins: [fast]`."
    )


def test_a_dataset_that_nothing_reads_lists_its_columns(site: Site) -> None:
    site.built_ins()
    datasets = (
        DatasetEntry("d", "d", seen=("a", "b"), origin="train.yaml:7"),
        DatasetEntry("e", "e"),
    )
    first, second = errors_of(site, datasets=datasets)
    assert str(first) == (
        "train.yaml:7: no dataset plugin reads 'd': its columns are a, b.\n"
        "  Name its format with `formatting` in dataset_info.json; registered names and columns: alpaca, instruction."
    )
    assert "'e': it has no columns" in str(second)


def test_a_mistyped_preference_and_one_without_use_are_two_errors(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}, "template": {"quick": "T", "swift": "T2"}})
    wanted = Wanted("full", "train.yaml:3")
    unknown, unused = errors_of(site, "fasst", "fast", finetuning_type=wanted)
    assert isinstance(unknown, NoProvider)
    assert str(unknown) == (
        "train.yaml:9: no installed plugin or distribution is named 'fasst'.\n  Did you mean 'fast'?"
    )
    assert isinstance(unused, UnusedPlugin)
    assert str(unused) == (
        "train.yaml:9: nothing in this run can use 'fast'; "
        "it registers adapter:lora.fast, template:quick, template:swift.\n"
        "  It would be used with `finetuning_type: lora` or `template: quick` or `template: swift`."
    )


def test_a_command_is_no_part_of_a_run(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-c", {"command": {"chart": "C"}})
    (error,) = errors_of(site, "chart")
    assert str(error) == (
        "train.yaml:9: nothing in this run can use 'chart'; it registers command:chart.\n  It is a command: tk chart"
    )


def test_asking_for_a_distribution_with_malformed_metadata_says_what_is_wrong(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-bad", "[tkernel.adapter]\nbad\n")
    (error,) = errors_of(site, "bad")
    assert isinstance(error, BrokenPlugin)
    file = site.folder / "tk_bad-0.1.dist-info" / "entry_points.txt"
    assert str(error) == (
        f"train.yaml:9: the metadata of tk-bad 0.1: {file}:2: 'bad' is not `name = module:object`\n"
        "  Run: pip install --force-reinstall tk-bad"
    )


def test_blocking_what_does_not_exist_is_an_error_and_what_cannot_be_read_is_not(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-bad", "[tkernel.adapter]\nbad\n")
    (error,) = errors_of(site, "no:tk-bad", "no:loraa")
    assert str(error) == (
        "train.yaml:9: no installed plugin or distribution is named 'loraa'.\n  Did you mean 'lora'?"
    )


def test_everything_that_is_wrong_is_told_at_once(site: Site) -> None:
    site.built_ins()
    errors = errors_of(site, "nothing-like-it", stage=Wanted("x"), template=Wanted("y"))
    assert [type(error) for error in errors] == [NoProvider] * 3


# -- media -----------------------------------------------------------------------------------------

SEEING = ModelFacts("m", "folder", "/m", "seer", chat_template="x", config={"vision_config": {}})


def test_a_multimodal_model_gets_the_media_plugin_its_model_plugin_names(site: Site) -> None:
    site.built_ins()
    site.distribution(
        "tk-seer",
        {"model": {"seer": "SEER"}, "media": {"eye": "EYE"}},
        """
        from built_in import Model
        SEER = Model("seer", media="eye")
        """,
    )
    assert chosen(plan_of(site, facts=SEEING), "media") == (
        "eye",
        "tk-seer",
        "matched",
        "model:seer of tk-seer 0.1 names it",
    )
    assert plan_of(site).chosen("media") is None


def test_without_a_media_plugin_only_a_run_with_media_fails(site: Site) -> None:
    site.built_ins()
    assert plan_of(site, facts=SEEING).chosen("media") is None
    pictures = DatasetEntry("d", "d", formatting="alpaca", columns={"images": "images"})
    (error,) = errors_of(site, facts=SEEING, datasets=(pictures,))
    assert str(error) == (
        "no media plugin serves models of type seer.\n  Installed: none. Prefer one with `plugins: [media:NAME]`."
    )


# -- extensions ------------------------------------------------------------------------------------


def test_extensions_are_active_in_the_order_of_plugins(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-e", {"extension": {"first": "F", "second": "S", "third": "T"}})
    plan = plan_of(site, "second", "extension:first")
    assert [(c.hook, c.name, c.how, c.reason) for c in plan.extensions] == [
        ("*", "second", "extension", "second (train.yaml:9)"),
        ("*", "first", "extension", "extension:first (train.yaml:9)"),
    ]


def test_naming_the_kernel_itself_activates_no_extension(site: Site) -> None:
    site.built_ins()
    file = site.folder / "tkernel-1.0.0.dist-info" / "entry_points.txt"
    file.write_text(file.read_text() + "\n[tkernel.extension]\nwatch = built_in:WATCH\n")
    assert plan_of(site, "tkernel", stage=Wanted("sft")).extensions == ()


def test_use_keys_stand_for_extensions_and_for_distributions(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-fast", {"adapter": {"lora.fast": "A"}})
    site.distribution("tk-e", {"extension": {"galore": "G"}})
    assert use_names(site.index) == {"use_galore": "extension:galore", "use_fast": "tk-fast", "use_e": "tk-e"}
    plan = plan_of(site, uses=("use_galore", "use_fast"))
    assert [c.name for c in plan.extensions] == ["galore"]
    assert plan.extensions[0].origin == "train.yaml:8"
    assert chosen(plan, "adapter")[0] == "lora.fast"


def test_two_extensions_of_one_name_are_an_error(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-a", {"extension": {"watch": "W"}})
    site.distribution("tk-b", {"extension": {"watch": "W"}})
    (error,) = errors_of(site, "watch")
    assert isinstance(error, AmbiguousProvider)
    assert [c.distribution for c in plan_of(site, "tk-b:watch").extensions] == ["tk-b"]


def test_a_plugin_that_fails_when_asked_whether_it_accepts_is_named(site: Site) -> None:
    site.built_ins()
    module = 'from built_in import Model\nX = Model("x", accepts=lambda facts: facts.nothing)\n'
    site.distribution("tk-x", {"model": {"x": "X"}}, module)
    (error,) = errors_of(site, "x")
    assert str(error) == (
        "model:x of tk-x 0.1: `accepts` fails: AttributeError: 'ModelFacts' object has no attribute 'nothing'"
    )
