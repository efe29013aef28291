"""Places that keep bundles for tests: a web server and a registry with faulty replies, and
layouts."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from server.deploy.remote.artifact import MANIFEST_TYPE, REF_NAME, TITLE

TOKEN = "a-token-of-the-test"


def kept_bundle(folder: Path, letter: str, weights: bytes = b"", name: str = "right") -> Path:
    """A stub bundle with the stamp `letter` x 64 whose manifest lists its files."""
    path = folder / f"kept-{name}-{letter}"
    (path / "weights").mkdir(parents=True)
    (path / "weights" / "model.safetensors").write_bytes(weights or letter.encode() * 300_000)
    (path / "labels.json").write_text("[]")
    (path / "CARD.md").write_text("")
    return listed(path, {"name": name, "stamp": letter * 64})


def listed(path: Path, claims: dict[str, Any]) -> Path:
    """Writes a manifest with these claims and the files as they are."""
    files = [
        {
            "path": file.relative_to(path).as_posix(),
            "size": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "manifest.json"
    ]
    (path / "manifest.json").write_text(json.dumps({"files": files, **claims}))
    return path


def oci_layout(bundle: Path, folder: Path, tag: str) -> str:
    """Packs a bundle as `oras push` does; returns the digest of its manifest."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    layers = [
        {
            "mediaType": "application/octet-stream",
            **put(path.read_bytes()),
            "annotations": {TITLE: path.relative_to(bundle).as_posix()},
        }
        for path in sorted(bundle.rglob("*"))
        if path.is_file()
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": "application/vnd.trefoil.bundle.v1",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", **put(b"{}")},
        "layers": layers,
    }
    found = put(json.dumps(manifest).encode())
    entry = {"mediaType": MANIFEST_TYPE, **found, "annotations": {REF_NAME: tag}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(found["digest"])


@dataclass(slots=True)
class Shelf:
    """A web server on 127.0.0.1 over `folder`, and what it is to do wrong.

    `cut`: path -> bytes after which the next reply ends; `redirect`: path -> Location; `status`:
    path -> code of every reply; `garbage`: path -> what is served in its place.
    """

    folder: Path
    url: str = ""
    ranges: bool = True
    cut: dict[str, int] = field(default_factory=dict)
    redirect: dict[str, str] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    garbage: dict[str, bytes] = field(default_factory=dict)
    layout: Path | None = None  # what /v2/bundles/... has, for holders of TOKEN
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # path, Range, Authorization

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def ranges_of(self, path: str) -> list[str]:
        return [range_ for asked, range_, _ in self.asked if asked == path]


@contextmanager
def shelf(folder: Path) -> Iterator[Shelf]:
    found = Shelf(folder)

    class Handler(_Handler):
        kept = found

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    kept: Shelf
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, range_ = self.path, self.headers.get("Range", "")
        self.kept.asked.append((path, range_, self.headers.get("Authorization", "")))
        if path in self.kept.redirect:
            return self._answer(307, Location=self.kept.redirect[path])
        if path in self.kept.status:
            return self._answer(self.kept.status[path])
        if path.startswith("/v2/"):
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                realm = f'Bearer realm="{self.kept.url}/token",service="here",scope="pull"'
                return self._answer(401, **{"WWW-Authenticate": realm})
            return self._registry(path)
        if path.startswith("/token?"):
            return self._content(path, json.dumps({"token": TOKEN}).encode())
        file = self.kept.folder / path.lstrip("/")
        if path not in self.kept.garbage and not file.is_file():
            return self._answer(404)
        self._content(path, self.kept.garbage.get(path) or file.read_bytes())

    def _registry(self, path: str) -> None:
        assert self.kept.layout is not None
        kind, _, reference = path.removeprefix("/v2/bundles/").partition("/")
        if kind == "manifests" and not reference.startswith("sha256:"):
            index = json.loads((self.kept.layout / "index.json").read_text())
            tags = {m["annotations"][REF_NAME]: m["digest"] for m in index["manifests"]}
            if reference not in tags:
                return self._answer(404)
            reference = tags[reference]
        blob = self.kept.layout / "blobs" / "sha256" / reference.removeprefix("sha256:")
        self._content(path, self.kept.garbage.get(path) or blob.read_bytes())

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _content(self, path: str, content: bytes) -> None:
        start, end = 0, len(content) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.kept.ranges:
            start, end = int(asked[1]), min(end, int(asked[2] or end))
        part = content[start : end + 1]
        self.send_response(206 if asked and self.kept.ranges else 200)
        if asked and self.kept.ranges:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if path in self.kept.cut:
            self.wfile.write(part[: self.kept.cut.pop(path)])
            self.close_connection = True
            return
        self.wfile.write(part)

    def log_message(self, *_arguments: Any) -> None:
        return
