"""Where no provider or several answer, and where a preference cannot be had, an error helps."""

from __future__ import annotations

import pytest
from choosing import LLAMA, chosen, errors_of, plan_of, static
from distributions import Site, written

from tkernel.choose import choose
from tkernel.errors import AmbiguousProvider, BrokenPlugin, NoProvider, UnusedPlugin
from tkernel.pins import Pins, Wanted
from tkernel.types.dataset import DatasetEntry

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


def test_a_name_that_nobody_has_says_whose_metadata_cannot_be_read(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-bad", "[tkernel.adapter]\nbad\n")
    (error,) = errors_of(site, finetuning_type=Wanted("bad", "train.yaml:3"))
    assert str(error).endswith(
        "Installed: full, lora.\n  Its metadata cannot be read: tk-bad (tk plugins list)."
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
