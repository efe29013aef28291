"""Bundles as OCI artifacts: one layer for each file, with its path as the title, as `oras push`
makes them.

A registry is read over https; a layout is a directory on the server's host. Content that is
requested by digest is compared with the digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from server.deploy.remote.keeper import Body
from server.deploy.remote.location import FetchRefused, Location, is_loopback
from server.deploy.remote.web import Web, WebStatus, check_led, read_whole

TITLE = "org.opencontainers.image.title"
REF_NAME = "org.opencontainers.image.ref.name"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
# Marks a directory that was pushed as a compressed archive.
UNPACKED = "io.deis.oras.content.unpack"
MOST_MANIFEST_BYTES = 4 << 20  # the limit of registries
MOST_TOKEN_BYTES = 64 << 10
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')

Blob = Callable[[str, int], Body]  # (digest, first byte) -> content


@dataclass(frozen=True, slots=True)
class Layer:
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """The files of one artifact, by path."""

    layers: Mapping[str, Layer]
    blob: Blob

    def small(self, name: str, most: int) -> bytes | None:
        layer = self.layers.get(name)
        if layer is None:
            return None
        if layer.size > most:
            raise FetchRefused(f"{name} has {layer.size} bytes; at most {most}")
        content = read_whole(self.blob(layer.digest, 0), layer.size, name)
        check_digest(content, layer.digest, name)
        return content

    def open(self, name: str, start: int) -> Body:
        if name not in self.layers:
            raise FetchRefused(f"no layer of the artifact has the title {name}")
        return self.blob(self.layers[name].digest, start)


def layers_of(manifest: Mapping[str, Any], where: str) -> dict[str, Layer]:
    """The layers by path. Raises FetchRefused for a manifest of another form."""
    found: dict[str, Layer] = {}
    for layer in _items(manifest, "layers", where):
        notes = layer.get("annotations") or {}
        title = notes.get(TITLE) if isinstance(notes, dict) else None
        digest, size = layer.get("digest"), layer.get("size")
        if not isinstance(title, str):
            continue
        if notes.get(UNPACKED):
            raise FetchRefused(f"{where}: {title} was pushed as an archive: push each file")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or type(size) is not int:
            raise FetchRefused(f"{where}: the layer {title[:80]!r} has no sha256 digest and size")
        found[title] = Layer(digest, size)
    if not found:
        raise FetchRefused(f"{where}: no layer has a title; push the files of a bundle with oras")
    return found


def check_digest(content: bytes, digest: str, what: str) -> None:
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise FetchRefused(f"{what} is {found[:19]}… and not {digest[:19]}…")


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise FetchRefused(f"{where} is not JSON") from None
    if not isinstance(found, dict):
        raise FetchRefused(f"{where} is not an object")
    return found


def _items(whole: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = whole.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise FetchRefused(f"{where} lists no {name}")
    return found


# ---- a layout on this host ---------------------------------------------------------------------


def layout(location: Location) -> Artifact:
    """The artifact in a layout on this host. Raises FetchRefused."""
    root = Path(location.place.removeprefix("oci://"))
    if not (root / "oci-layout").is_file():
        raise FetchRefused(f"{root} is not an OCI image layout: it has no oci-layout")

    def blob(digest: str, start: int) -> Body:
        return _opened(root / "blobs" / "sha256" / digest.removeprefix("sha256:"), start)

    def manifest(digest: str) -> dict[str, Any]:
        content = read_whole(blob(digest, 0), MOST_MANIFEST_BYTES, str(location))
        check_digest(content, digest, str(location))
        return _parsed(content, str(location))

    where = root / "index.json"
    index = _parsed(read_whole(_opened(where, 0), MOST_MANIFEST_BYTES, str(where)), str(where))
    found = manifest(_named(index, location))
    if found.get("mediaType") == INDEX_TYPE:
        found = manifest(_only(found, location))
    return Artifact(layers_of(found, str(location)), blob)


def _opened(path: Path, start: int) -> Body:
    try:
        file = path.open("rb")
    except OSError as error:
        raise FetchRefused(f"{path}: {error.strerror}") from None
    file.seek(start)
    return Body(start, file.read, file.close)


def _named(index: Mapping[str, Any], location: Location) -> str:
    names = []
    for one in _items(index, "manifests", str(location)):
        name = str((one.get("annotations") or {}).get(REF_NAME, ""))
        names.append(name)
        if location.reference in (name, one.get("digest")):
            return _digest_of(one, location)
    raise FetchRefused(f"{location} is not in that layout: {', '.join(names)[:200] or 'nothing'}")


def _only(index: Mapping[str, Any], location: Location) -> str:
    found = _items(index, "manifests", str(location))
    if len(found) != 1:
        raise FetchRefused(f"{location} is an index of {len(found)} artifacts: name one by digest")
    return _digest_of(found[0], location)


def _digest_of(descriptor: Mapping[str, Any], location: Location) -> str:
    digest = descriptor.get("digest")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise FetchRefused(f"{location} has no sha256 digest")
    return digest


# ---- a registry ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Registry:
    """Pulls from one repository. Credentials come from the file that `docker login` writes."""

    web: Web
    location: Location
    _auth: str = field(default="", init=False)

    def artifact(self) -> Artifact:
        """The artifact. Raises FetchRefused, FetchBroken."""
        found = self._manifest(self.location.reference)
        if found.get("mediaType") == INDEX_TYPE:
            found = self._manifest(_only(found, self.location))
        return Artifact(layers_of(found, str(self.location)), self.blob)

    def _manifest(self, reference: str) -> dict[str, Any]:
        accept = {"Accept": f"{MANIFEST_TYPE}, {INDEX_TYPE}"}
        body = self._get(f"manifests/{reference}", 0, accept)
        content = read_whole(body, MOST_MANIFEST_BYTES, str(self.location))
        if reference.startswith("sha256:"):
            check_digest(content, reference, str(self.location))
        return _parsed(content, str(self.location))

    def blob(self, digest: str, start: int) -> Body:
        return self._get(f"blobs/{digest}", start, {})

    def _get(self, path: str, start: int, headers: Mapping[str, str]) -> Body:
        host, _, repository = self.location.place.removeprefix("oci://").partition("/")
        scheme = "http" if is_loopback(urlsplit(f"//{host}").hostname or "") else "https"
        url = f"{scheme}://{host}/v2/{repository}/{path}"
        try:
            return self.web.get(url, start, headers, self._auth)
        except WebStatus as error:
            if error.status != 401:
                raise FetchRefused(_hinted(error)) from None
            self._auth = self._authorized(error.headers.get("WWW-Authenticate", ""), url)
        try:
            return self.web.get(url, start, headers, self._auth)
        except WebStatus as error:
            raise FetchRefused(_hinted(error)) from None

    def _authorized(self, challenge: str, url: str) -> str:
        """The Authorization header for a registry that asks for a token or a password."""
        host = urlsplit(url).netloc
        kind, _, rest = challenge.partition(" ")
        basic = docker_credentials(host)
        if kind.lower() == "basic":
            return f"Basic {basic}"
        asked = dict(_CHALLENGE.findall(rest))
        realm = asked.get("realm", "")
        if kind.lower() != "bearer" or not realm:
            raise FetchRefused(f"{host} asks for {kind[:40]!r}, which is not known here")
        check_led(url, realm)
        query = {name: asked[name] for name in ("service", "scope") if name in asked}
        joint = "&" if "?" in realm else "?"
        with_auth = f"Basic {basic}" if basic else ""
        try:
            body = self.web.get(f"{realm}{joint}{urlencode(query)}", auth=with_auth)
            found = _parsed(read_whole(body, MOST_TOKEN_BYTES, realm), realm)
        except WebStatus as error:
            raise FetchRefused(_hinted(error)) from None
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str):
            raise FetchRefused(f"{quote(realm, safe=':/')} gave no token")
        return f"Bearer {token}"


def _hinted(error: WebStatus) -> str:
    hint = ": log in, so that its credentials are in ~/.docker/config.json"
    return f"{error}{hint if error.status == 401 else ''}"


def docker_credentials(host: str) -> str:
    """The base64 of user:password; "" if there is none."""
    named = os.environ.get("REGISTRY_AUTH_FILE")
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = Path(named) if named else folder / "config.json"
    try:
        found = json.loads(path.read_bytes())["auths"][host]["auth"]
        base64.b64decode(found, validate=True)
    except (FileNotFoundError, KeyError, TypeError):
        return ""
    except (OSError, ValueError) as error:
        raise FetchRefused(f"{path} cannot be read: {error}") from None
    return str(found)
