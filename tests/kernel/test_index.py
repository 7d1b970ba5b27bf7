"""The index reads metadata, imports nothing, and a bad distribution harms only itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from distributions import Site

from tkernel.index import Entry, read_index


def test_an_entry_carries_the_metadata_of_its_distribution(site: Site) -> None:
    site.distribution(
        "tk-mylab",
        "[console_scripts]\nmylab = tk_mylab:main\n\n[tkernel.adapter]\nlora.fast = tk_mylab.sub:A.B [gpu, x]\n",
        version="0.3",
        requires=("tkernel>=1,<2", 'peft>=1; extra == "gpu"'),
    )
    (entry,) = site.index.entries
    assert entry == Entry(
        kind="adapter",
        name="lora.fast",
        target="tk_mylab.sub:A.B",
        distribution="tk-mylab",
        version="0.3",
        requires=("tkernel>=1,<2", 'peft>=1; extra == "gpu"'),
        extras=("gpu", "x"),
        location=str(site.folder / "tk_mylab-0.3.dist-info"),
    )
    assert (entry.base, entry.variant, str(entry)) == ("lora", "fast", "adapter:lora.fast of tk-mylab 0.3")


def test_a_dot_before_a_digit_belongs_to_a_name(site: Site) -> None:
    site.distribution("tk-a", {"template": {"openchat-3.6": "X", "openchat-3.6.fast": "Y"}})
    index = site.index
    names = sorted((entry.base, entry.variant) for entry in index.entries if entry.variant)
    assert (names, index.names("template")) == ([("openchat-3.6", "fast")], ("openchat-3.6",))


def test_finding_names_kinds_and_distributions(site: Site) -> None:
    site.built_ins()
    site.distribution(
        "tk-a", {"adapter": {"lora": "X", "lora.a": "Y", "a": "Z"}, "extension": {"watch": "W"}}
    )
    index = site.index
    assert [entry.distribution for entry in index.find("adapter", "lora")] == ["tk-a", "tkernel"]
    assert index.names("adapter") == ("a", "full", "lora")
    kinds = {entry.kind for entry in index.entries}
    assert kinds == {"model", "adapter", "dataset", "template", "stage", "engine", "extension"}
    assert index.distributions == {"tk-a": "0.1", "tkernel": "1.0.0"}


def test_the_first_copy_of_a_distribution_wins_as_for_import(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "1"), Site(tmp_path / "2")
    first.distribution("tk-a", {"adapter": {"a": "NEW"}}, version="2.0")
    second.distribution("tk-a", {"adapter": {"a": "OLD", "b": "OLD"}}, version="1.0")
    index = read_index([str(first.folder), str(second.folder)])
    assert [(e.name, e.version) for e in index.entries] == [("a", "2.0")]
    assert [(e.name, e.version) for e in index.shadowed] == [("a", "1.0"), ("b", "1.0")]


def test_a_first_copy_without_plugins_shadows_a_second_one_with_plugins(tmp_path: Path) -> None:
    first, second = Site(tmp_path / "1"), Site(tmp_path / "2")
    first.distribution("tk-a", "[console_scripts]\na = a:main\n", version="2.0")
    second.distribution("tk-a", {"adapter": {"a": "OLD"}}, version="1.0")
    index = read_index([str(first.folder), str(second.folder)])
    assert index.entries == ()
    assert [e.name for e in index.shadowed] == ["a"]


MALFORMED = {
    "[tkernel.adapter\nbad = tk_bad:X\n": (1, "'[tkernel.adapter' is not a section header `[group]`"),
    "bad = tk_bad:X\n[tkernel.adapter]\n": (1, "'bad = tk_bad:X' is not a section header `[group]`"),
    "[tkernel.adapter]\nok = tk_bad:X\nbad tk_bad:X\n": (3, "'bad tk_bad:X' is not `name = module:object`"),
    "[tkernel.adapter]\n\nbad = tk_bad\n": (3, "'tk_bad' does not name an object as `module:object`"),
    "[tkernel.adapter]\nbad = tk_bad:X\nbad = tk_bad:Y\n": (3, "adapter:bad is registered twice"),
    "[tkernel.adapter]\nbad = \0\x01:X\n": (2, "'\\x00\\x01:X' does not name an object as `module:object`"),
}


@pytest.mark.parametrize("text", MALFORMED, ids=[message for _, message in MALFORMED.values()])
def test_a_malformed_file_is_a_problem_of_its_distribution_alone(site: Site, text: str) -> None:
    line, message = MALFORMED[text]
    site.distribution("tk-bad", text)
    site.distribution("tk-good", {"adapter": {"good": "X"}})
    index = site.index
    assert [entry.name for entry in index.entries] == ["good"]
    file = site.folder / "tk_bad-0.1.dist-info" / "entry_points.txt"
    assert [str(problem) for problem in index.problems] == [f"tk-bad 0.1: {file}:{line}: {message}"]


def test_bytes_that_are_no_text_are_a_problem_of_their_distribution_alone(site: Site) -> None:
    site.distribution("tk-bad", "")
    file = site.folder / "tk_bad-0.1.dist-info" / "entry_points.txt"
    file.write_bytes(b"[tkernel.adapter]\nbad\xff\xfe\n")
    site.distribution("tk-good", {"adapter": {"good": "X"}})
    assert [entry.name for entry in site.index.entries] == ["good"]
    assert [(problem.distribution, problem.line) for problem in site.index.problems] == [("tk-bad", 2)]


def test_an_unknown_kind_is_a_problem_and_the_other_groups_count(site: Site) -> None:
    site.distribution("tk-a", "[tkernel.adaptor]\nx = tk_a:X\n[tkernel.adapter]\ny = tk_a:Y\n")
    assert [entry.name for entry in site.index.entries] == ["y"]
    assert "'adaptor' is no kind of plugin; the kinds are model, adapter," in str(site.index.problems[0])


def test_malformed_lines_of_other_groups_are_not_our_business(site: Site) -> None:
    site.distribution("tk-a", "[other]\nnonsense\n[tkernel.adapter]\n# comment\n; comment\ny = tk_a:Y\n")
    assert [entry.name for entry in site.index.entries] == ["y"]
    assert site.index.problems == ()


def test_missing_metadata_leaves_the_name_of_the_folder(site: Site) -> None:
    site.distribution("tk-a", {"adapter": {"a": "X"}})
    (site.folder / "tk_a-0.1.dist-info" / "METADATA").unlink()
    assert [(entry.distribution, entry.version) for entry in site.index.entries] == [("tk-a", "?")]


def test_folders_that_are_not_there_and_files_on_the_path_are_passed_over(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_text("no zip")
    assert read_index([str(tmp_path / "nowhere"), str(tmp_path / "file.zip")]).entries == ()


def test_reading_imports_no_plugin(site: Site) -> None:
    name = site.distribution("tk-a", {"adapter": {"a": "X"}}, "raise SystemExit('imported')")
    assert read_index().find("adapter", "a")
    assert name not in sys.modules


def test_what_a_build_left_in_a_checkout_hides_nothing(site: Site, tmp_path: Path) -> None:
    site.distribution("tk-x", {"adapter": {"a": "A"}})
    left = tmp_path / "checkout" / "tk_x.egg-info"
    left.mkdir(parents=True)
    (left / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tk-x\nVersion: 0.1\n")
    (left / "entry_points.txt").write_text("[tkernel.adapter]\na = tk_x:A\n")
    index = read_index([str(left.parent), str(site.folder)])
    assert [entry.name for entry in index.entries] == ["a"]
    assert index.shadowed == ()
