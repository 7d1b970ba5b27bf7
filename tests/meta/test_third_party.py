"""Distributions as a third party writes them are installed by pip and keep the contracts.

They are found through their own metadata and import tkernel's public names alone.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [*sorted((ROOT / "tests" / "third_party").glob("tk-*")), ROOT / "contrib" / "tk-hello"]
PUBLIC = ("tkernel", "tkernel.errors", "tkernel.rendering", "tkernel.testing")

SUITES = """
from tkernel.testing import (
    AdapterContract, DatasetContract, EngineContract, MediaContract, ModelContract, StageContract,
    TemplateContract,
)
class TestModel(ModelContract):
    plugin = "demo"
class TestAdapter(AdapterContract):
    plugin = "demo"
class TestDataset(DatasetContract):
    plugin = "demo"
class TestTemplate(TemplateContract):
    plugin = "demo"
class TestMedia(MediaContract):
    plugin = "demo"
class TestStage(StageContract):
    plugin = "demo"
class TestEngine(EngineContract):
    plugin = "demo"
    long = 60
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with all of them, installed by one call of pip from copies of their sources."""
    copies = tmp_path_factory.mktemp("sources")
    target = tmp_path_factory.mktemp("site-packages")
    ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    sources = [shutil.copytree(folder, copies / folder.name, ignore=ignored) for folder in FOLDERS]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *options, *map(str, sources)], check=True)
    return target


def python(*arguments, path, cwd):
    environment = {**os.environ, "PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_each_keeps_the_contract_of_its_kind(installed, tmp_path):
    (tmp_path / "test_suites.py").write_text(SUITES)
    shutil.copy(ROOT / "contrib" / "tk-hello" / "tests" / "test_hello.py", tmp_path)
    child = python("-m", "pytest", "-q", "-p", "no:cacheprovider", path=installed, cwd=tmp_path)
    assert child.returncode == 0, child.stdout + child.stderr
    assert "passed" in child.stdout


def test_a_contract_runs_without_a_test_file(installed, tmp_path):
    script = "import sys; from tkernel.testing.run import run_contract; sys.exit(run_contract(*sys.argv[1:]))"
    child = python("-c", script, "template", "demo", path=installed, cwd=tmp_path)
    assert child.returncode == 0, child.stdout + child.stderr
    assert "test_batch_equals_single PASSED" in child.stdout


def test_a_failing_check_is_the_exit_code(installed, tmp_path):
    (tmp_path / "heavy.py").write_text("import numpy\nfrom tk_demo_template import TEMPLATE\n")
    script = "import sys; from tkernel.testing.run import run_contract; sys.exit(run_contract(*sys.argv[1:]))"
    child = python("-c", script, "template", "heavy:TEMPLATE", path=f"{installed}:{tmp_path}", cwd=tmp_path)
    assert child.returncode == 1
    assert "importing heavy imports numpy" in child.stdout


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_imports_public_names_alone(folder):
    imported = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module)
            elif isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
    ours = {name for name in imported if name.partition(".")[0] in ("tkernel", "tkernel_plugins")}
    assert ours
    assert {name for name in ours if name not in PUBLIC and not name.startswith("tkernel.types.")} == set()


def test_hello_has_less_than_forty_lines():
    (file,) = (ROOT / "contrib" / "tk-hello" / "tk_hello").glob("*.py")
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40
