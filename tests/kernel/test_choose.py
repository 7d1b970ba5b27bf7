"""Who answers a hook: pinned, preferred, matched, default; media and extensions."""

from __future__ import annotations

import pytest
from choosing import LLAMA, chosen, errors_of, plan_of
from distributions import Site

from tkernel.errors import AmbiguousProvider, UnusedPlugin
from tkernel.pins import Wanted, use_names
from tkernel.types.dataset import DatasetEntry
from tkernel.types.facts import ModelFacts

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
    images, origin = {"images": "images"}, "dataset_info.json:3"
    pictures = DatasetEntry("d", "d", formatting="alpaca", columns=images, origin=origin)
    (error,) = errors_of(site, facts=SEEING, datasets=(pictures,))
    assert str(error) == (
        "dataset_info.json:3: no media plugin serves models of type seer, and dataset 'd' has media.\n"
        "  Installed: none. Prefer one with `plugins: [media:NAME]`."
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
