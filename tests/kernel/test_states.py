"""The list of plugins tells the state of each from metadata alone."""

from __future__ import annotations

import sys
from pathlib import Path

from distributions import Site, written

from tkernel.activate import Loader
from tkernel.choose import choose
from tkernel.index import read_index
from tkernel.pins import Pins, Wanted
from tkernel.types.facts import ModelFacts
from tkernel_plugins.commands.plugin_states import plugin_states


def states(site: Site, *names: str) -> dict[tuple[str, str, str], tuple[str, str]]:
    pins = Pins(tuple(Wanted(name, "train.yaml:9") for name in names))
    facts = ModelFacts("m", "folder", "/m", "novel", chat_template="x")
    plan, _ = choose(written(), (), facts, site.index, pins, Loader())
    rows = plugin_states(site.index, plan, pins)
    return {(row.kind, row.name, row.distribution): (row.state, row.detail) for row in rows}


def test_every_state_with_its_reason(site: Site) -> None:
    site.built_ins()
    site.distribution("tk-api", {"engine": {"api": "E"}}, "raise SystemExit", requires=("tkernel>=2",))
    site.distribution("tk-needy", {"engine": {"needy": "E"}}, "raise SystemExit", requires=("gone",))
    site.distribution("tk-gone", {"engine": {"gone": "E"}})
    site.distribution("tk-twin", {"adapter": {"full": "A"}}, "raise SystemExit")
    site.distribution("tk-off", {"adapter": {"off": "A"}}, "raise SystemExit")
    site.distribution("tk-exits", {"adapter": {"exits": "A"}}, "import os; os._exit(1)")
    site.distribution("tk-bad", "[tkernel.adapter]\nbad\n")
    found = states(site, "no:tk-off")
    file = site.folder / "tk_bad-0.1.dist-info" / "entry_points.txt"
    assert {key: value for key, value in found.items() if key[2] != "tkernel"} == {
        ("engine", "api", "tk-api"): (
            "incompatible",
            "engine:api of tk-api 0.1 needs tkernel>=2; this is tkernel 1.0.0. "
            "Run: pip install --upgrade 'tkernel>=2' tk-api",
        ),
        ("engine", "needy", "tk-needy"): (
            "broken",
            "engine:needy of tk-needy 0.1 needs gone, which is not installed. Run: pip install 'gone'",
        ),
        ("engine", "gone", "tk-gone"): (
            "broken",
            "There is no module tk_gone; run: pip install --force-reinstall tk-gone",
        ),
        ("adapter", "full", "tk-twin"): ("shadowed", "tkernel 1.0.0 registers it too; say tk-twin:full"),
        ("adapter", "off", "tk-off"): ("blocked", "by no:tk-off (train.yaml:9)"),
        ("adapter", "exits", "tk-exits"): ("available", ""),
        ("", "", "tk-bad"): ("broken", f"tk-bad 0.1: {file}:2: 'bad' is not `name = module:object`"),
    }
    assert found["adapter", "lora", "tkernel"] == ("active", "")
    assert found["adapter", "full", "tkernel"][0] == "shadowed"
    assert found["template", "chatml", "tkernel"] == ("available", "")
    assert not {"tk_api", "tk_needy", "tk_twin", "tk_off", "tk_exits"} & set(sys.modules)


def test_a_second_copy_on_the_path_is_shadowed(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "other")
    site.distribution("tk-a", {"adapter": {"a": "A"}}, "", version="2.0")
    other.distribution("tk-a", {"adapter": {"a": "A"}}, "", version="1.0")
    rows = plugin_states(read_index([str(site.folder), str(other.folder)]))
    location = other.folder / "tk_a-1.0.dist-info"
    assert [(row.version, row.state, row.detail) for row in rows] == [
        ("1.0", "shadowed", f"another copy comes first; this one is in {location}"),
        ("2.0", "available", ""),
    ]


def test_a_missing_module_inside_a_package_is_seen_without_importing_the_package(site: Site) -> None:
    package = site.folder / "tk_pack"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "sub" / "there.py").write_text("")
    entries = "[tkernel.adapter]\na = tk_pack.sub.there:A\nb = tk_pack.sub.gone:B\nc = tk_pack.there.gone:C\n"
    site.distribution("tk-pack", entries)
    rows = plugin_states(site.index)
    assert [(row.name, row.state) for row in rows] == [("a", "available"), ("b", "broken"), ("c", "broken")]
    assert rows[1].detail == (
        "There is no module tk_pack.sub.gone; run: pip install --force-reinstall tk-pack"
    )
