"""Reading configuration files: values, lines, and what is wrong with a file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tkernel.config.read import parse_value, read_file


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(text: str, name: str = "train.yaml") -> dict[str, object]:
    Path(name).write_text(text, "utf-8")
    settings, problems = read_file(name)
    assert problems == []
    return {setting.key: setting.value for setting in settings}


def problems_of(text: str | bytes, name: str = "train.yaml") -> list[str]:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(problem) for problem in read_file(name)[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("5e-5", 5e-5),
        ("3", 3),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", 1000),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("no", "no"),
        ("~", None),
        ("", None),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("[a, 1]", ["a", 1]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_yaml_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert settings_of(f"key: {text}\n") == {"key": value}
    assert parse_value(text) == value


@pytest.mark.parametrize(
    "text", ["You are: kind", "- be nice", "[INST", "*x", "!x", "&x", "@x", "{a}b", "a #b"]
)
def test_text_on_the_command_line_needs_no_quotes(text: str) -> None:
    assert parse_value(text) == text


def test_every_setting_knows_its_line_and_how_it_was_written() -> None:
    Path("train.yaml").write_text("### model\na: 1.10\n\nb:\n- x\n- y\n")
    settings, _ = read_file("train.yaml")
    assert [(s.key, s.origin, s.text) for s in settings] == [
        ("a", "train.yaml:2", "1.10"),
        ("b", "train.yaml:4", None),
    ]


def test_json_settings_know_their_lines() -> None:
    Path("c.json").write_text('{"a": 1,\n\n\t"b": {"c": [1, {"d": null}]}\n}')
    settings, problems = read_file("c.json")
    assert [(s.key, s.value, s.origin) for s in settings] == [
        ("a", 1, "c.json:1"),
        ("b", {"c": [1, {"d": None}]}, "c.json:3"),
    ]
    assert problems == []


def test_an_empty_file_and_a_byte_order_mark_are_fine() -> None:
    assert settings_of("") == settings_of("# nothing\n") == {}
    assert settings_of("\ufeffa: 1\n") == {"a": 1}


def test_a_merge_key_adds_what_is_not_set() -> None:
    assert settings_of("base: &b {x: 1, y: 2}\nz:\n  <<: *b\n  y: 3\n")["z"] == {"y": 3, "x": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nb: 2\na: 3\n",
            "train.yaml:3: 'a' is set twice; line 1 sets it too\n    Keep one of the two lines.",
        ),
        (
            "a:\n  c: 1\n  c: 2\n",
            "train.yaml:3: 'c' is set twice; line 2 sets it too\n    Keep one of the two lines.",
        ),
        ("a: 1\n\tb: 2\n", "train.yaml:2: a tab, where YAML wants spaces\n    Replace the tab by spaces."),
        (
            "a: b: c\n",
            "train.yaml:1: a `:` that cannot be here\n"
            "    Put text that has a colon into quotes, indent keys alike, and write a space after each `key:`.",
        ),
        (
            "a: [1\nb: 2\n",
            "train.yaml:2: not YAML: expected ',' or ']', but got ':' "
            "(while parsing a flow sequence that starts in line 1)",
        ),
        ("a: @x\n", "train.yaml:1: not YAML: found character '@' that cannot start any token"),
        ("- a\n- b\n", "train.yaml:1: the file holds a list, not keys\n    Write one `key: value` a line."),
        (
            "hello\n",
            "train.yaml:1: the file holds a single value, not keys\n    Write one `key: value` a line.",
        ),
        (b"a: 1\n\xff\xfe", "train.yaml:2: not a text file: byte 5 is not UTF-8"),
        (b"a: \0\n", "train.yaml: not a text file: it has zero bytes"),
    ],
)
def test_what_is_wrong_with_a_yaml_file_is_told_with_its_line(text: str | bytes, message: str) -> None:
    assert problems_of(text) == [message]


def test_what_is_wrong_with_a_json_file_is_told_with_line_and_column() -> None:
    assert problems_of('{"a": 1,\n "b": [1,}\n', "c.json") == [
        "c.json:2: not JSON: expecting value, found '}' in column 10"
    ]
    assert problems_of('{"a": 1', "c.json") == [
        "c.json:1: not JSON: expecting ',' delimiter, found the end of the file in column 8"
    ]
    assert problems_of('{"a": 1, "a": 2}', "c.json") == [
        "c.json:1: 'a' is set twice; line 1 sets it too\n    Keep one of the two lines."
    ]


def test_a_missing_file_is_told_with_the_files_that_are_near() -> None:
    Path("train_lora.yaml").touch()
    assert [str(p) for p in read_file("train_lroa.yaml")[1]] == [
        "there is no configuration file train_lroa.yaml\n    Did you mean 'train_lora.yaml'?"
    ]
    assert [str(p) for p in read_file("nowhere/train.yaml")[1]] == [
        "there is no configuration file nowhere/train.yaml\n    There is no folder nowhere."
    ]
    assert [str(p) for p in read_file(".")[1]] == [". is a folder, and a configuration file is wanted"]
