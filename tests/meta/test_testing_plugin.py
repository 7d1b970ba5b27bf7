"""The pytest plugin is loaded in every environment: it must cost and say nothing there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tkernel.errors import AmbiguousProvider, InvalidPlugin, NoProvider, UsageError
from tkernel.testing import AdapterContract, TemplateContract
from tkernel.testing.contract import HEAVY, find_plugin, suite_of
from tkernel.testing.run import run_contract


def test_loading_it_imports_nothing_heavy_and_no_suite():
    script = (
        "import sys, tkernel.testing.plugin; "
        f"print([name for name in {HEAVY!r} if name in sys.modules], "
        "[name for name in sys.modules if name.startswith('tkernel.testing.')])"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[] ['tkernel.testing.plugin']"
    assert child.stderr == ""


def test_a_failed_check_shows_the_values_that_it_compared(tmp_path):
    (tmp_path / "test_wrong.py").write_text(
        "from tkernel.testing import TemplateContract\n"
        "class TestWrong(TemplateContract):\n"
        "    plugin = 'chatml'\n"
        "    terminator = 'nothing like it'\n"
    )
    check = "test_wrong.py::TestWrong::test_supervises_exactly_the_reply_and_its_terminator"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", check]
    child = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert child.returncode == 1
    assert "is not 'Good morning" in child.stdout
    assert "+  where None = " in child.stdout


def test_tiny_fixtures_are_real(tiny_tokenizer, tiny_model, tiny_bundle):
    text = "The user owes 12 € to the inn.\n\n  naïve 😀"
    ids = tiny_tokenizer(text, return_tensors="pt").input_ids
    assert tiny_tokenizer.decode(ids[0]) == text
    model = tiny_model("Qwen3ForCausalLM")
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], len(tiny_tokenizer))
    assert tiny_bundle.facts.model_type == tiny_bundle.module.config.model_type == "llama"


def test_the_same_seed_gives_the_same_tiny_model(tiny_model):
    first, second, other = tiny_model("llama"), tiny_model("llama"), tiny_model("llama", seed=1)
    weights = [model.model.embed_tokens.weight for model in (first, second, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])


def test_a_contract_needs_a_kind_that_has_one():
    with pytest.raises(UsageError, match="no contract for 'command'"):
        run_contract("command", "chat")


def test_a_suite_has_the_attributes_that_the_plugin_gives():
    suite = suite_of("template", "gpt_oss")
    assert issubclass(suite, TemplateContract)
    assert suite.plugin == "gpt_oss"
    assert "final" in suite.reply_prefix
    assert suite_of("adapter", "lora").options == {}


@pytest.mark.parametrize(
    ("stage", "suite"),
    [
        ("sft", "StageContract"),
        ("pt", "TextStageContract"),
        ("dpo", "PreferenceStageContract"),
        ("kto", "FeedbackStageContract"),
        ("grpo", "OnlineStageContract"),
        ("rm", "RewardContract"),
        ("ppo", "JudgedContract"),
    ],
)
def test_a_stage_gets_the_suite_of_its_rows_or_the_one_that_it_names(stage, suite):
    assert [base.__name__ for base in suite_of("stage", stage).__mro__][1] == suite


def test_further_models_of_a_stage_are_there():
    found = suite_of("stage", "distill")
    assert found().bound_options().teacher_model == "another"


def test_a_suite_that_is_not_there_is_an_error_of_the_plugin(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tk_demo_template import TEMPLATE\n"
        "class Mine(type(TEMPLATE)):\n"
        "    contract = {'suite': 'tk_demo_template:Missing'}\n"
        "del TEMPLATE\n"
        "PLUGIN = Mine()\n"
    )
    with pytest.raises(InvalidPlugin, match=r"suite of its `contract` is not there: .*Missing"):
        suite_of("template", str(file))


def test_a_plugin_that_gives_what_the_suite_does_not_know_is_told(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from tk_demo_template import TEMPLATE\n"
        "class Mine(type(TEMPLATE)):\n"
        "    contract = {'seperator': 'x'}\n"
        "del TEMPLATE\n"
        "PLUGIN = Mine()\n"
    )
    with pytest.raises(InvalidPlugin, match="'seperator', which TemplateContract does not know") as caught:
        suite_of("template", str(file))
    assert caught.value.hint == "Did you mean 'separator'?"


def test_a_separator_that_the_terminator_makes_useless_is_an_error():
    class Mine(TemplateContract):
        plugin = "chatml"
        separator = "!"

    with pytest.raises(InvalidPlugin, match="`separator` is not looked at"):
        Mine().setup_method()


@pytest.mark.parametrize(("kind", "name"), [("template", "chatglm3"), ("dataset", "text")])
def test_unusual_built_in_plugins_pass_without_a_test_file(kind, name):
    script = "import sys; from tkernel.testing.run import run_contract; sys.exit(run_contract(*sys.argv[1:]))"
    child = subprocess.run(
        [sys.executable, "-c", script, kind, name], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stdout


def test_a_contract_names_what_is_installed():
    with pytest.raises(
        NoProvider, match=r"no plugin adapter:lorra is installed; installed are: freeze, full"
    ):
        run_contract("adapter", "lorra")


def test_a_contract_without_pytest_says_how_to_get_it():
    script = (
        "import sys; sys.modules['pytest'] = None\n"
        "from tkernel.errors import MissingRequirement\n"
        "from tkernel.testing.run import run_contract\n"
        "try: run_contract('adapter', 'lora')\n"
        "except MissingRequirement as error: print(error.hint)\n"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stdout == "pip install 'tkernel[test]'\n"


def test_one_name_of_two_distributions_is_settled_by_its_distribution(tmp_path):
    for distribution in ("tk-one", "tk-two"):
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[tkernel.template]\ntwice = tk_demo_template:TEMPLATE\n")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(AmbiguousProvider, match="registered by tk-one and tk-two"):
            find_plugin("template", "twice")
        assert find_plugin("template", "tk-two:twice").distribution == "tk-two"
    finally:
        sys.path.remove(str(tmp_path))


def test_a_file_of_plugins_gives_the_one_of_the_kind(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from tk_demo_adapter import ADAPTER\nfrom tk_demo_template import TEMPLATE\n")
    assert find_plugin("template", str(file)).object.name == "demo"
    with pytest.raises(NoProvider):
        find_plugin("stage", str(file))


def test_what_a_file_of_plugins_imports_is_checked_too(tmp_path):
    light, heavy = tmp_path / "light.py", tmp_path / "heavy.py"
    light.write_text("from tk_demo_adapter import ADAPTER\n")
    heavy.write_text("import numpy\nfrom tk_demo_adapter import ADAPTER\n")

    class OfAFile(AdapterContract):
        plugin = str(light)

    OfAFile().test_importing_the_plugin_imports_nothing_heavy()
    OfAFile.plugin = str(heavy)
    with pytest.raises(AssertionError, match="imports numpy"):
        OfAFile().test_importing_the_plugin_imports_nothing_heavy()
