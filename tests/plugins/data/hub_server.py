"""Servers on loopback: files over HTTP, and as much of the hub's API as reading a dataset takes."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40


class FileServer(BaseHTTPRequestHandler):
    """Serves the files below `root`; ranges too, unless `whole` is set. `cut` closes each answer half way."""

    root = Path()
    whole = False
    cut = False
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Headers of a file."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file."""
        self.file(self.root / unquote(urlsplit(self.path).path).lstrip("/"))

    def file(self, path: Path) -> None:
        """Answer with a file, or a part of it."""
        if not path.is_file():
            self.answer(404, b"nothing", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and not self.whole:
            start, _, end = asked[6:].partition("-")
            first, last = int(start), min(int(end or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.answer(206, content[first : last + 1], headers)
            return
        self.answer(200, content, headers | ({} if self.whole else {"Accept-Ranges": "bytes"}))

    def json(self, value: object) -> None:
        """Answer with JSON."""
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer with bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cut else content)
            self.close_connection = self.close_connection or self.cut


class StorageServer(FileServer):
    """Google Cloud Storage's JSON API for the buckets `root/bucket`: list, look at and fetch objects."""

    def do_GET(self) -> None:
        """`storage/v1/b/BUCKET/o[/OBJECT]`, and `download/` before it for the content."""
        path = urlsplit(self.path).path.strip("/")
        bucket, _, name = path.partition("v1/b/")[2].partition("/o")
        folder, name = self.root / bucket, unquote(name.strip("/"))
        if path.startswith("download/"):
            self.file(folder / name)
        elif name:
            self.object(folder, name)
        else:
            prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
            names = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            found = sorted(name for name in names if name.startswith(prefix))
            self.json({"items": [described(folder, name) for name in found]} if found else {})

    def object(self, folder: Path, name: str) -> None:
        """What an object is."""
        if (folder / name).is_file():
            self.json(described(folder, name))
        else:
            self.answer(404, b'{"error": {"message": "No such object"}}')


def described(folder: Path, name: str) -> dict[str, str]:
    """An object as the storage API describes it."""
    content = (folder / name).read_bytes()
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    return {"name": name, "bucket": folder.name, "size": str(len(content)), "md5Hash": digest}


class HubServer(FileServer):
    """Hugging Face's hub for the dataset repositories `root/owner/name`."""

    def do_GET(self) -> None:
        """The parts of the API that `datasets` and `huggingface_hub` ask for, and the files."""
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self.file(self.root.joinpath(*parts[1:3], *parts[5:]))
        elif parts[:2] == ["api", "datasets"] and (self.root.joinpath(*parts[2:4])).is_dir():
            self.repository(self.root.joinpath(*parts[2:4]), parts[4:])
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def repository(self, folder: Path, asked: list[str]) -> None:
        """What a repository is, or a list of its files."""
        if asked[:1] == ["tree"]:
            inside = folder.joinpath(*asked[2:])
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            found = inside.rglob("*") if deep else inside.glob("*")
            self.json([self.described(folder, path) for path in sorted(found)])
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        names = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
        flags = {"private": False, "gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
        identity = f"{folder.parent.name}/{folder.name}"
        self.json({"id": identity, "_id": "0", "sha": COMMIT, "siblings": names, **flags})

    def do_POST(self) -> None:
        """What paths of a repository are."""
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        folder = self.root.joinpath(*parts[2:4])
        self.json([self.described(folder, folder / path) for path in paths if (folder / path).exists()])

    def described(self, folder: Path, path: Path) -> dict[str, object]:
        """A file or folder as the API lists it."""
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": hashlib.sha1(name.encode()).hexdigest()}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": oid}


@contextmanager
def serving(root: Path, handler: type[FileServer] = FileServer, **settings: object) -> Iterator[str]:
    """The address of a server for the files below `root`."""
    chosen = type("Serving", (handler,), {"root": root, **settings})
    server = ThreadingHTTPServer(("127.0.0.1", 0), chosen)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ModelScopeServer(FileServer):
    """ModelScope's hub for the dataset repositories `root/owner/name`."""

    def do_GET(self) -> None:
        """The list of files of a repository, and the files."""
        address = urlsplit(self.path)
        parts, query = unquote(address.path).strip("/").split("/"), parse_qs(address.query)
        folder = self.root.joinpath(*parts[3:5])
        if parts[:3] != ["api", "v1", "datasets"] or not folder.is_dir():
            self.answer(404, b"{}")
        elif parts[5:] == ["repo", "tree"]:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            listed = [self.described(folder, path) for path in files]
            self.json({"Code": 200, "Success": True, "Data": {"Files": listed, "TotalCount": len(listed)}})
        else:
            self.file(folder / query["FilePath"][0])

    def described(self, folder: Path, path: Path) -> dict[str, object]:
        """A file as the API lists it."""
        name, digest = path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()
        return {
            "Path": name,
            "Name": path.name,
            "Type": "blob",
            "Size": path.stat().st_size,
            "Sha256": digest,
        }
