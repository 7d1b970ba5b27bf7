"""`tk env create`, with a distribution that has a recipe; pip works for real."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tkernel.errors import UsageError
from tkernel_plugins.commands.env_create import LOG, STATE, StepFailed, create_environment
from tkernel_plugins.commands.env_recipe import BadRecipe, Recipe, find_source, of_wheel, parse_recipe

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "tk-small"
version = "0.1"
dependencies = ["tkernel>=1,<2", "iniconfig"]

[project.entry-points."tkernel.command"]
small = "tk_small:small"

[tool.setuptools]
packages = ["tk_small"]
package-data = { tk_small = ["tk_env.toml"] }
"""

MODULE = '''\
import sys

if "unittest" in sys.argv:
    raise SystemExit("imported while its recipe was looked for")


def small() -> None:
    """Say hello."""
    print("hello from", sys.prefix)
'''

RECIPE = """\
extras = []
flags = ["--no-deps"]
constraints = ["iniconfig<2.2"]
install = ["iniconfig"]
install_no_deps = ["pytest-timeout"]
remove = ["pytest-timeout"]
check = ["import tk_small, iniconfig"]
"""


def distribution(folder: Path, recipe: str = RECIPE) -> Path:
    """A distribution with a recipe."""
    package = folder / "tk-small" / "tk_small"
    package.mkdir(parents=True)
    (package.parent / "pyproject.toml").write_text(PYPROJECT)
    (package / "__init__.py").write_text(MODULE)
    (package / "tk_env.toml").write_text(recipe)
    return package.parent


@pytest.fixture(scope="module")
def reachable() -> None:
    """Skips where pip has no index."""
    probe = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run([*probe, "iniconfig"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")


@pytest.fixture(scope="module")
def made(reachable, tmp_path_factory) -> tuple[Path, Path, str]:
    """The environment, the sources of its distribution, and what was printed."""
    folder = tmp_path_factory.mktemp("env")
    source = distribution(folder)
    command = [sys.executable, "-m", "tkernel", "env", "create", str(folder / "made"), "--with", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "made", source, done.stdout


def versions(folder: Path) -> dict[str, str]:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(pip, capture_output=True, text=True, check=True).stdout)
    return {entry["name"]: entry["version"] for entry in listed}


@pytest.mark.slow
def test_the_environment_has_what_the_recipe_says_and_runs_the_plugin(made):
    folder, _, printed = made
    found = versions(folder)
    assert found["iniconfig"] < "2.2"
    assert "tk-small" in found
    assert not {"pytest-timeout", "torch"} & set(found)
    done = subprocess.run([folder / "bin" / "tk", "small"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"hello from {folder}"
    assert "[6/6] check import tk_small, iniconfig" in printed
    assert f"{folder} is ready" in printed


@pytest.mark.slow
def test_one_that_is_there_is_said_to_be_ready_and_left_alone(made, capsys):
    folder, source, _ = made
    before = (folder / LOG).stat().st_mtime_ns
    create_environment(folder, [str(source)], [])
    assert "is ready: it was made from the same recipe" in capsys.readouterr().out
    assert (folder / LOG).stat().st_mtime_ns == before


@pytest.mark.slow
def test_another_recipe_needs_remake(made, tmp_path):
    folder, _, _ = made
    other = distribution(tmp_path, RECIPE.replace("<2.2", "<2.1"))
    with pytest.raises(UsageError, match="was made from another recipe") as caught:
        create_environment(folder, [str(other)], [])
    assert "--remake" in str(caught.value)


@pytest.mark.slow
def test_a_step_that_fails_names_the_command_and_its_last_lines(tmp_path, capsys):
    bad = distribution(tmp_path, 'extras = []\nconstraints = ["what is this"]\n')
    folder = tmp_path / "bad"
    with pytest.raises(StepFailed) as caught:
        create_environment(folder, [str(bad)], [])
    assert "[2/2] install " in str(caught.value)
    assert f"pip install --disable-pip-version-check --progress-bar off -c {folder}" in str(caught.value)
    assert "\n    ERROR: Invalid requirement: 'what is this'" in str(caught.value)
    assert str(folder / LOG) in str(caught.value)
    assert json.loads((folder / STATE).read_text())["state"] == "making"

    with pytest.raises(StepFailed):
        create_environment(folder, [str(bad)], [])
    assert "was not finished; it is made anew" in capsys.readouterr().out


def test_a_folder_of_somebody_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for remake in (False, True):
        with pytest.raises(UsageError, match="was not made by `tk env create`"):
            create_environment(tmp_path, [], [], remake=remake)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_recipe_is_found_in_sources_in_wheels_and_of_what_is_installed_without_an_import(tmp_path):
    source = distribution(tmp_path)
    expected = parse_recipe(RECIPE, "here")
    assert find_source(str(source)).recipe == expected
    assert find_source(str(source)).target == ("-e", str(source))

    wheel = tmp_path / "tk_small-0.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tk_small/tk_env.toml", RECIPE)
    assert of_wheel("tk-small", wheel).recipe == expected
    assert find_source(str(wheel)).target == (str(wheel),)

    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
    ]
    subprocess.run([*pip, source], check=True)
    (site / "tk_small-0.1.dist-info" / "direct_url.json").unlink()  # as if it came from an index
    script = (
        "import sys; from tkernel_plugins.commands.env_recipe import find_source; s = find_source('small');"
        "print(s.target, s.recipe.constraints, 'tk_small' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "('tk-small==0.1',) ('iniconfig<2.2',) False"


def test_a_distribution_without_a_recipe_is_installed_with_its_requirements():
    root = Path(__file__).parents[3]
    assert find_source(str(root / "contrib" / "tk-hello")).recipe == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("instal = []", "there is no key 'instal'"),
        ("install = 'torch'", "install is not a list of texts"),
        ("install = [", "is no TOML"),
    ],
)
def test_a_bad_recipe_is_named_with_its_key(text, message):
    with pytest.raises(BadRecipe, match=message) as caught:
        parse_recipe(text, "tk_small/tk_env.toml")
    assert "tk_small/tk_env.toml" in str(caught.value)


def test_a_path_that_is_not_there_is_no_name(tmp_path):
    with pytest.raises(UsageError, match="there is no folder or wheel"):
        find_source(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"has no pyproject\.toml"):
        find_source(str(tmp_path))
