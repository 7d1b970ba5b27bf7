"""The same rows come from every source, and a source that fails says which one and why."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from data_kit import ALPACA
from hub_server import COMMIT, FileServer, HubServer, ModelScopeServer, StorageServer, serving

from tkernel.errors import DataError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.sources import content_key, raw_rows

LINES = "".join(json.dumps(row) + "\n" for row in ALPACA)


def parquet_bytes() -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ALPACA), sink)
    return bytes(sink.getvalue())


def arrow_bytes() -> bytes:
    import pyarrow

    table, sink = pyarrow.Table.from_pylist(ALPACA), pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def csv_text() -> str:
    keys = ("instruction", "input", "output")
    return "\n".join([",".join(keys), *(",".join(row[key] for key in keys) for row in ALPACA)])


FILES = {
    "rows.jsonl": LINES.encode(),
    "rows.json": json.dumps(ALPACA).encode(),
    "rows.csv": csv_text().encode(),
    "rows.parquet": parquet_bytes(),
    "rows.arrow": arrow_bytes(),
    "rows.jsonl.gz": gzip.compress(LINES.encode()),
    "rows.json.bz2": bz2.compress(json.dumps(ALPACA).encode()),
    "rows.csv.xz": lzma.compress(csv_text().encode()),
    "rows.parquet.gz": gzip.compress(parquet_bytes()),
    "sub folder/räder 100%.jsonl": LINES.encode(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def entry(location: str, source: Any = "cloud", **fields: Any) -> DatasetEntry:
    return DatasetEntry("mine", location, source, "alpaca", origin="dataset_info.json:3", **fields)


def values(described: DatasetEntry, **given: Any) -> list[Any]:
    return [row.value for row in raw_rows(described, **given)]


def error_of(described: DatasetEntry) -> str:
    with pytest.raises(DataError) as caught:
        values(described)
    return str(caught.value)


# -- files and URLs --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_local_file_of_any_kind_gives_its_rows(folder: Path, name: str) -> None:
    assert values(entry(str(folder / name), "file")) == ALPACA


@pytest.mark.parametrize("whole", [False, True], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_over_http_gives_its_rows_whatever_the_server_can(
    folder: Path, name: str, whole: bool
) -> None:
    pytest.importorskip("aiohttp")
    with serving(folder, whole=whole) as address:
        url = f"{address}/{name}?download=true"
        rows = list(raw_rows(entry(url)))
    assert [row.value for row in rows] == ALPACA
    assert {row.file for row in rows} == {url}
    assert [row.row for row in rows] == list(range(len(ALPACA)))


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_the_memory_store_gives_its_rows(name: str) -> None:
    with fsspec.open(f"memory://sources/{name}", "wb") as file:
        file.write(FILES[name])
    assert values(entry(f"memory://sources/{name}")) == ALPACA


def test_a_folder_at_a_url_is_read_in_the_order_of_its_names() -> None:
    for part in ("b", "a"):
        with fsspec.open(f"memory://parts/{part}.jsonl", "w") as file:
            file.write(json.dumps({"part": part}))
    for other in ("README.md", "dataset_info.json", ".hidden.jsonl"):
        with fsspec.open(f"memory://parts/{other}", "w") as file:
            file.write("{}")
    assert values(entry("memory://parts")) == [{"part": "a"}, {"part": "b"}]
    with fsspec.open("memory://parts/c.csv", "w") as file:
        file.write("part\nc\n")
    assert "a folder of one kind of file was expected, and it has .csv, .jsonl" in error_of(
        entry("memory://parts")
    )


def test_only_as_much_of_a_url_is_fetched_as_is_read(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    size = 100_000_000
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.write(LINES.encode())
        file.truncate(size)
    sent: list[int] = []

    class Counting(FileServer):
        def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            sent.append(len(content) if self.command == "GET" else 0)
            super().answer(status, content, headers)

    with serving(tmp_path, Counting) as address:
        rows = raw_rows(entry(f"{address}/large.jsonl"))
        assert [next(rows).value for _ in range(5)] == ALPACA[:5]
    assert sum(sent) < size / 4


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield f"http://{host}:{port}"
    running.stop()


def test_files_in_a_bucket_give_their_rows_and_a_key_of_their_content(s3: str) -> None:
    import s3fs

    bucket = s3fs.S3FileSystem(skip_instance_cache=True)
    bucket.mkdir("rows")
    for name in ("rows.jsonl", "rows.parquet", "rows.jsonl.gz"):
        bucket.pipe(f"rows/data/{name}", FILES[name])
        assert values(entry(f"s3://rows/data/{name}")) == ALPACA
    bucket.pipe("rows/one/rows.jsonl", FILES["rows.jsonl"])
    assert values(entry("s3://rows/one")) == ALPACA
    before = content_key(entry("s3://rows/one"))
    bucket.pipe("rows/one/rows.jsonl", FILES["rows.jsonl"] + b"\n")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert before is not None
    assert content_key(entry("s3://rows/one")) not in (None, before)
    assert "s3://rows/absent.jsonl: cannot be read" in error_of(entry("s3://rows/absent.jsonl"))


def test_files_of_google_cloud_storage_give_their_rows_and_a_key_of_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcsfs = pytest.importorskip("gcsfs")
    folder = tmp_path / "rows" / "data"
    folder.mkdir(parents=True)
    for name in ("rows.jsonl", "rows.parquet", "rows.jsonl.gz"):
        (folder / name).write_bytes(FILES[name])
    (tmp_path / "rows" / "one").mkdir()
    (tmp_path / "rows" / "one" / "rows.jsonl").write_bytes(FILES["rows.jsonl"])
    with serving(tmp_path, StorageServer) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        gcsfs.GCSFileSystem.clear_instance_cache()
        for file in folder.iterdir():
            assert values(entry(f"gs://rows/data/{file.name}")) == ALPACA
        assert values(entry("gs://rows/one")) == ALPACA
        before = content_key(entry("gs://rows/one"))
        (tmp_path / "rows" / "one" / "rows.jsonl").write_bytes(FILES["rows.jsonl"] + b"\n")
        gcsfs.GCSFileSystem.clear_instance_cache()
        assert before is not None
        assert content_key(entry("gs://rows/one")) not in (None, before)
        assert "gs://rows/absent.jsonl: cannot be read" in error_of(entry("gs://rows/absent.jsonl"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere/rows.jsonl", "cannot be read: FileNotFoundError"),
        ("memory://nowhere", "memory://nowhere: there is nothing"),
        ("nosuch://a/b.jsonl", "cannot be opened: Protocol not known: nosuch"),
        ("http://127.0.0.1:9/a.jsonl", "http://127.0.0.1:9/a.jsonl: cannot be read"),
        ("http://127.0.0.1:9/folder", "its name says nothing that is read"),
        ("http://[::1", "cannot be reached: Invalid IPv6 URL"),
        ("://", "there is nothing"),
        ("wandb://a/b/rows.jsonl", "nothing installed reads wandb://"),
    ],
)
def test_a_url_that_cannot_be_read_is_named(url: str, message: str) -> None:
    assert message in error_of(entry(url))
    assert url in error_of(entry(url))


def test_a_connection_that_breaks_is_an_error_that_says_after_which_row(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "rows.jsonl").write_text(LINES * 50)
    with serving(tmp_path, cut=True, whole=True) as address:
        message = error_of(entry(f"{address}/rows.jsonl"))
    assert f"{address}/rows.jsonl: cannot be read" in message


def test_what_is_damaged_in_a_compressed_file_is_named_after_the_rows_before_it(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b'{"a": "%s"}\n' % os.urandom(2000).hex().encode() for _ in range(200)))
    (tmp_path / "rows.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    rows = raw_rows(entry(str(tmp_path / "rows.jsonl.gz"), "file"))
    assert next(rows).row == 0
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: cannot be read after row \d+: EOFError"):
        list(rows)


def test_zstandard_files_are_read_where_it_is_installed(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    for name in ("rows.jsonl", "rows.parquet", "rows.json"):
        (tmp_path / f"{name}.zst").write_bytes(zstandard.compress(FILES[name]))
        assert values(entry(str(tmp_path / f"{name}.zst"), "file")) == ALPACA
    (tmp_path / "no.jsonl.zst").write_bytes(b"no")
    assert "no.jsonl.zst: cannot be read" in error_of(entry(str(tmp_path / "no.jsonl.zst"), "file"))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train[:3]", ALPACA[:3]),
        ("train[5:9]", ALPACA[5:9]),
        ("train[-4:]", ALPACA[-4:]),
        ("train[:-25]", ALPACA[:-25]),
        ("train[10%:20%]", ALPACA[3:6]),
        ("train[:99]", ALPACA),
        ("train[50:]", []),
        ("train[:]", ALPACA),
    ],
)
def test_a_part_of_a_split_is_that_of_datasets(folder: Path, split: str, expected: list[Any]) -> None:
    import datasets

    assert values(entry(str(folder / "rows.jsonl"), "file", split=split)) == expected
    if expected and split != "train[:99]":
        path = str(folder / "rows.jsonl")
        assert datasets.load_dataset("json", data_files=path, split=split).to_list() == expected


@pytest.mark.parametrize("split", ["test", "train[", "train[1]", "validation[:5]", "", "train[a:b]"])
def test_a_split_that_files_do_not_have_is_refused(folder: Path, split: str) -> None:
    assert "files have the split `train` alone" in error_of(
        entry(str(folder / "rows.jsonl"), "file", split=split)
    )


def test_a_loading_script_is_refused_with_its_place() -> None:
    message = error_of(entry("belle.py", "script"))
    assert message.startswith("dataset_info.json:3: dataset 'mine' is a loading script, belle.py; ")


def test_a_content_key_changes_with_the_content_and_with_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(LINES)
    before = content_key(entry(str(file), "file"))
    os.utime(file, (1, 1))
    (tmp_path / "README.md").write_text("not data")
    assert content_key(entry(str(file), "file")) == before
    assert content_key(entry(str(tmp_path), "file")) is not None
    file.write_text(LINES.replace("Answer 3.", "Answer 4."))
    assert content_key(entry(str(file), "file")) not in (None, before)
    assert content_key(DatasetEntry("mine", "memory", "memory", data=[])) is None


def test_the_key_of_a_url_is_what_the_server_says_of_it_or_none(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "rows.jsonl").write_text(LINES)
    with serving(tmp_path) as address:
        before = content_key(entry(f"{address}/rows.jsonl"))
        (tmp_path / "rows.jsonl").write_text(LINES + "\n")
        assert before is not None
        assert content_key(entry(f"{address}/rows.jsonl")) not in (None, before)
    with fsspec.open("memory://keys/rows.jsonl", "w") as file:
        file.write(LINES)
    assert content_key(entry("memory://keys/rows.jsonl")) is None


# -- hubs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    rows, script = root / "org" / "rows", root / "org" / "script"
    (rows / "more").mkdir(parents=True)
    script.mkdir()
    (rows / "train.jsonl").write_text(LINES)
    (rows / "more" / "test.jsonl").write_text('{"instruction": "q", "output": "a"}\n')
    (rows / "dataset_info.json").write_text('{"far": {"file_name": "train.jsonl"}, "bad": {"file": "x"}}')
    (script / "script.py").write_text("raise SystemExit('this code must never run')")
    return root


PROGRAM = """
import json, sys
from tkernel_plugins.data.dataset_info import resolve
from tkernel.errors import TkError
from tkernel.types.dataset import DatasetEntry
from tkernel_plugins.data.sources import content_key, raw_rows
source = sys.argv[1]
def rows(location, streaming=False, **fields):
    try:
        entry = DatasetEntry("d", location, source, "alpaca", **fields)
        return [row.value for row in raw_rows(entry, streaming=streaming)]
    except TkError as error:
        return str(error)
found = {
    "all": rows("org/rows"),
    "part": rows("org/rows", split="train[:2]"),
    "folder": rows("org/rows", folder="more", split="test"),
    "nosuch": rows("org/rows", split="nosuch"),
    "absent": rows("org/absent"),
}
if source == "hf_hub":
    entries, problems = resolve(["far"], "REMOTE:org/rows")
    found |= {
        "stream": rows("org/rows", streaming=True),
        "script": rows("org/script"),
        "key": content_key(DatasetEntry("d", "org/rows", source)),
        "remote": [row.value for entry in entries for row in raw_rows(entry)],
        "online": resolve(["org/rows"], "ONLINE")[0][0].seen,
        "remote problems": [str(problem) for problem in resolve(["bad"], "REMOTE:org/rows")[1]],
        "no remote": [str(problem) for problem in resolve(["a"], "REMOTE:org/absent", origin="t.yaml:1")[1]],
    }
json.dump(found, open("found.json", "w"))
"""


def from_hub(source: str, folder: Path, **variables: str) -> dict[str, Any]:
    """What a process of its own, with a hub of its own, finds there."""
    environment = {**os.environ, **variables, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "home")}
    command = [sys.executable, "-c", PROGRAM, source]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "found.json").read_text()))


def test_hugging_faces_hub_is_read_by_its_own_client(repositories: Path, tmp_path: Path) -> None:
    with serving(repositories, HubServer) as address:
        found = from_hub("hf_hub", tmp_path, HF_ENDPOINT=address)
    assert found["all"] == found["stream"] == found["remote"] == ALPACA
    assert found["part"] == ALPACA[:2]
    assert found["folder"] == [{"instruction": "q", "output": "a"}]
    assert found["online"] == ["instruction", "input", "output"]
    assert found["key"].endswith(f"org/rows@{COMMIT}")
    assert (
        "org/rows (split 'nosuch') cannot be read from the Hugging Face hub: Unknown split" in found["nosuch"]
    )
    assert "org/absent (split 'train') cannot be read from the Hugging Face hub" in found["absent"]
    assert "org/script" in found["script"]
    assert "must never run" not in found["script"]
    assert ":1: unknown key 'file' in dataset 'bad'" in found["remote problems"][0]
    (problem,) = found["no remote"]
    assert problem.startswith("t.yaml:1: the list of datasets cannot be fetched from org/absent")


def test_modelscope_is_read_by_its_own_client(repositories: Path, tmp_path: Path) -> None:
    pytest.importorskip("modelscope")
    with serving(repositories, ModelScopeServer) as address:
        variables = {"MODELSCOPE_DOMAIN": address, "MODELSCOPE_CACHE": str(tmp_path / "cache")}
        found = from_hub("ms_hub", tmp_path, MODELSCOPE_ENDPOINT=address, **variables)
    assert found["all"] == ALPACA
    assert found["part"] == ALPACA[:2]
    assert found["folder"] == [{"instruction": "q", "output": "a"}]
    assert "cannot be read from ModelScope: Unknown split" in found["nosuch"]
    assert "org/absent cannot be fetched from ModelScope" in found["absent"]


def test_a_client_that_is_not_installed_is_named_with_its_extra() -> None:
    if __import__("importlib.util").util.find_spec("openmind_hub"):
        pytest.skip("openmind_hub is installed")
    message = error_of(entry("org/rows", "om_hub"))
    assert "dataset 'mine' is on Modelers (openMind), and its client is not installed" in message
    assert 'pip install "tkernel[openmind]"' in message
