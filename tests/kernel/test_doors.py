"""Plugins without packaging: a file, an object of a module, an object in memory."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from distributions import Site, written

from tkernel.activate import Loader, activate
from tkernel.choose import choose
from tkernel.doors import is_door, object_entry, open_doors
from tkernel.errors import BrokenPlugin, InvalidPlugin, NoProvider
from tkernel.pins import Pins, Wanted
from tkernel.types.facts import ModelFacts
from tkernel.types.requests import AdapterRequest

FACTS = ModelFacts("m", "folder", "/m", "llama", chat_template="x")

FILE = """
from dataclasses import dataclass
from types import SimpleNamespace
from tkernel import hookimpl

class Mine:
    name = "mine"
    @hookimpl
    def adapt(self, bundle, request):
        return bundle

class Watch:
    name = "watch"
    @hookimpl(wrapper=True)
    def train_stage(self, request):
        return (yield)

MINE, WATCH, SAME = Mine(), Watch(), None
SAME = MINE
_HIDDEN = Mine()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_loss.py"
    path.write_text(FILE)
    return path


def test_what_is_a_door_and_what_is_a_name(site: Site) -> None:
    site.distribution("tk-mylab", {"adapter": {"x": "X"}})
    # A module is often called as its distribution, which registers the plugin under another name.
    doors = ("./x.py", "x.py", "/a/b.py", "../plugins/x.py", "pkg.mod:OBJ", "pkg:OBJ", "tk_mylab:OBJ")
    names = ("x", "tk-mylab", "adapter:x", "tk-mylab:x", "tk_mylab:x", "no:x", "no:tk-mylab")
    assert [spec for spec in (*doors, *names) if is_door(spec, site.index)] == list(doors)


def test_a_file_gives_every_public_instance_once_with_the_hash_of_the_file(site: Site, file: Path) -> None:
    found = open_doors([str(file), "lora"], site.index).entries
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert [(e.kind, e.name, e.distribution, e.version, e.target) for e in found] == [
        ("adapter", "mine", "file", digest, str(file)),
        ("extension", "watch", "file", digest, str(file)),
    ]


def test_a_file_answers_and_wraps(site: Site, file: Path) -> None:
    site.built_ins()
    index = open_doors([str(file)], site.index)
    plan, errors = choose(written(), (), FACTS, index, Pins((Wanted(str(file), "--plugin"),)), Loader())
    assert errors == []
    choice = plan.chosen("adapter")
    assert choice is not None
    assert (choice.name, choice.distribution, choice.how) == ("mine", "file", "preferred")
    assert [c.name for c in plan.extensions] == ["watch"]
    from types import SimpleNamespace

    bundle = SimpleNamespace(module=1, tokenizer=2, facts=3, replace=4)
    assert activate(plan, index).call(choice, AdapterRequest(), bundle) is bundle  # type: ignore[arg-type]


def test_a_file_can_be_pinned_by_the_name_in_it_and_goes_before_what_is_installed(
    site: Site, file: Path
) -> None:
    site.built_ins()
    file.write_text(FILE.replace('"mine"', '"full"'))
    index = open_doors([str(file)], site.index)
    pins = Pins((Wanted(str(file), "--plugin"),))
    plan, errors = choose(
        written(finetuning_type=Wanted("full", "train.yaml:3")), (), FACTS, index, pins, Loader()
    )
    choice = plan.chosen("adapter")
    assert errors == []
    assert choice is not None
    assert (choice.name, choice.distribution, choice.how) == ("full", "file", "pinned")


def test_an_object_of_a_module_is_opened_by_name(site: Site) -> None:
    (site.folder / "my_objects.py").write_text(FILE)
    (entry,) = open_doors(["my_objects:MINE"], site.index).entries
    assert (entry.kind, entry.name, entry.distribution, entry.target) == (
        "adapter",
        "mine",
        "object",
        "my_objects:MINE",
    )
    assert entry.version.startswith("sha256:")


def test_a_module_of_the_current_folder_is_opened_as_a_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loss_here.py").write_text(FILE)
    with pytest.raises(BrokenPlugin, match=r"write --plugin \./loss_here\.py\."):
        open_doors(["loss_here:MINE"], site.index)
    with pytest.raises(BrokenPlugin, match="Mend nowhere:MINE, or leave it out"):
        open_doors(["nowhere:MINE"], site.index)


def test_an_object_in_memory_is_an_entry(site: Site) -> None:
    (site.folder / "my_objects.py").write_text(FILE)
    import my_objects  # type: ignore[import-not-found]

    entry = object_entry(my_objects.MINE, "notebook", "notebook")
    assert Loader()(entry) is my_objects.MINE


def test_a_missing_file_is_told_with_near_misses(site: Site, file: Path) -> None:
    with pytest.raises(NoProvider) as caught:
        open_doors([str(file.with_name("my_los.py"))], site.index)
    assert str(caught.value) == (
        f"There is no plugin file {file.with_name('my_los.py')} (looked for {file.with_name('my_los.py')}).\n"
        "  Did you mean 'my_loss.py'?"
    )


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("x = 1\n", InvalidPlugin, "defines no plugin object.\n  Put @hookimpl on a method of a class."),
        (
            FILE.partition("MINE,")[0],
            InvalidPlugin,
            "defines no plugin object.\n  Add a line: PLUGIN = Mine()",
        ),
        (FILE.replace("def adapt", "def adpt"), InvalidPlugin, "implements 'adpt', which is no hook."),
        ("raise RuntimeError('boom')\n", BrokenPlugin, "RuntimeError: boom\n  Mend "),
        ("import os; os._exit(1)\n", BrokenPlugin, "ends the process when it is imported (exit status 1)."),
    ],
    ids=["nothing in it", "only classes", "misspelt hook", "raises", "ends the process"],
)
def test_a_bad_file_says_what_is_wrong(
    site: Site, file: Path, text: str, kind: type[Exception], message: str
) -> None:
    file.write_text(text)
    with pytest.raises(kind) as caught:
        open_doors([str(file)], site.index)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)
    assert not [name for name in sys.modules if name.startswith("tk_door_my_loss") and kind is BrokenPlugin]


def test_dataclasses_in_a_file_work(site: Site, file: Path) -> None:
    options = "from __future__ import annotations\n" + FILE.replace(
        "class Mine:\n",
        "@dataclass(frozen=True)\nclass O:\n    rank: int = 8\n\nclass Mine:\n    Options = O\n",
    )
    file.write_text(options)
    assert open_doors([str(file)], site.index).find("adapter", "mine")
