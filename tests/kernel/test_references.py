"""Functions by reference: found in source, imported only when called for, recorded with their content."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tkernel.config.bind import Bound, Owner, bind
from tkernel.config.settle import settle
from tkernel.errors import ConfigError
from tkernel.references import FunctionNotFound, find_function, is_reference, load_function

FILE = """
import json as reader
raise_if_called = 1
def double(x): return 2 * x
class Maker:
    @staticmethod
    def make(): return "made"
if True:
    def inside(): return 1
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path


@pytest.mark.parametrize("text", ["pkg.mod:fn", "./file.py:fn", "/a/b c.py:fn", "pkg:Class.method"])
def test_what_names_a_function_by_its_place(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize(
    "value", ["adamw_torch", "a:b:c", "./file.txt:fn", "fn:", ":fn", "", 3, None, "a b:c"]
)
def test_what_names_none(value: object) -> None:
    assert not is_reference(value)


@pytest.mark.parametrize(
    ("text", "result"),
    [("./mine.py:double", 6), ("./mine.py:Maker.make", "made"), ("./mine.py:inside", 1), ("math:sqrt", 2.0)],
)
def test_a_function_of_a_file_or_a_module_is_called(text: str, result: object) -> None:
    arguments = {"./mine.py:double": [3], "math:sqrt": [4]}.get(text, [])
    assert load_function(text)(*arguments) == result


def test_finding_imports_nothing(here: Path) -> None:
    (here / "costly.py").write_text("1 / 0\ndef fn(): ...\n")
    assert find_function("./costly.py:fn") == Path("costly.py")
    with pytest.raises(FunctionNotFound, match="cannot be imported: ZeroDivisionError"):
        load_function("./costly.py:fn")
    sys.modules.pop("wsgiref.util", None)  # another test may have needed it
    assert find_function("wsgiref.util:setup_testing_defaults").name == "util.py"
    assert "wsgiref.util" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("./mien.py:double", "there is no file ./mien.py", "Did you mean 'mine.py'?"),
        ("./mine.py:duoble", "mine.py has no 'duoble'", "Did you mean 'double'?"),
        ("no_such.mod:fn", "there is no module no_such.mod", "./no_such.py:fn"),
        ("json.decode:fn", "there is no module json.decode", None),
        ("json:dump_all", "has no 'dump_all'", "Did you mean 'dump'"),
    ],
)
def test_what_is_not_there_is_told_with_what_was_meant(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(FunctionNotFound, match=message) as caught:
        find_function(text)
    assert hint is None or hint in str(caught.value.hint)


def test_a_syntax_error_is_told_with_its_line(here: Path) -> None:
    (here / "mine.py").write_text("x = 1\ndef fn(:\n")
    with pytest.raises(FunctionNotFound, match=r"mine\.py:2: "):
        find_function("./mine.py:fn")


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(FunctionNotFound, match="is a int, not a function"):
        load_function("./mine.py:raise_if_called")


@dataclass(frozen=True)
class Options:
    """Options."""

    pref_loss: str = field(default="sigmoid", metadata={"function": True})
    reward_funcs: tuple[str, ...] = field(default=(), metadata={"function": True})


def bound(text: str) -> Bound:
    Path("train.yaml").write_text(text)
    return bind(settle("train.yaml", (), {}), [Owner("stage:x", "tk-x", Options)])


def test_a_key_that_takes_functions_finds_them_while_binding() -> None:
    got = bound("pref_loss: hinge\nreward_funcs: [./mine.py:double, length]\n")
    assert got.options("stage:x") == Options("hinge", ("./mine.py:double", "length"))
    assert got.functions() == ["./mine.py:double"]
    with pytest.raises(ConfigError) as caught:
        bound("pref_loss: ./mine.py:doubel\nreward_funcs: [no_such:fn]\n")
    assert [str(problem) for problem in caught.value.problems] == [
        "train.yaml:1: pref_loss: mine.py has no 'doubel' (in `./mine.py:doubel`)\n    Did you mean 'double'?",
        "train.yaml:2: reward_funcs: there is no module no_such (in `no_such:fn`)\n"
        "    Is no_such installed? A file of your own is named by its path: ./no_such.py:fn",
    ]
