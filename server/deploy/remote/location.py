"""Where a bundle is kept: the URLs that `server load` accepts besides a directory.

    https://HOST/DIR              a directory behind a web server
    oci://HOST/REPOSITORY:TAG     an artifact in a registry; or @sha256:HEX
    oci:///PATH:TAG               the same in an OCI image layout on the server's host
    s3://BUCKET/PREFIX            an object store that fsspec knows; also gs://, az://, abfs://

`#STAMP` at the end pins the bundle: another one there is refused. A URL is logged and written to
the journal, so it must not contain credentials.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

WEB = ("https", "http")
OCI = "oci"
OBJECTS = ("s3", "gs", "az", "abfs")
_STAMP = re.compile(r"[0-9a-f]{12,64}\Z")
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*://")
_REPOSITORY = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class FetchRefused(Exception):
    """A bundle cannot be fetched from where it is kept. The message has the reason and the
    remedy."""


@dataclass(frozen=True, slots=True)
class Location:
    """`place` is the URL without tag, digest and stamp; `reference` the tag or digest of an OCI
    artifact; `stamp` the required prefix of the bundle's stamp, "" for any."""

    scheme: str
    place: str
    reference: str = ""
    stamp: str = ""

    def __str__(self) -> str:
        joint = "@" if self.reference.startswith("sha256:") else ":"
        return f"{self.place}{joint}{self.reference}" if self.reference else self.place


def is_remote(text: str) -> bool:
    return _REMOTE.match(text) is not None


def locate(text: str) -> Location:
    """Raises FetchRefused for a URL that this server does not load from."""
    whole, _, stamp = text.partition("#")
    if stamp and not _STAMP.fullmatch(stamp):
        raise FetchRefused(f"{text}: after # comes a stamp of 12 to 64 hex digits")
    try:
        parts = urlsplit(whole)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise FetchRefused(f"{text}: {error}") from None
    if parts.username is not None and parts.scheme not in OBJECTS:
        raise FetchRefused("a URL holds no credentials: put them in ~/.netrc or ~/.docker/config")
    if parts.query:
        raise FetchRefused(f"{parts.scheme}://{parts.netloc}{parts.path}: a URL holds no query")
    if parts.scheme == OCI:
        return _artifact(whole, host, parts.path, stamp)
    if parts.scheme in WEB:
        check_web(whole)
    elif parts.scheme not in OBJECTS:
        known = ", ".join(f"{scheme}://" for scheme in (OCI, "https", *OBJECTS))
        raise FetchRefused(f"{text}: a bundle is loaded from a directory, {known}")
    if not parts.netloc:
        raise FetchRefused(f"{text} names no host or bucket")
    return Location(parts.scheme, whole.rstrip("/"), "", stamp)


def _artifact(whole: str, host: str, path: str, stamp: str) -> Location:
    place, at, digest = whole.partition("@")
    reference = digest
    if not at:
        place, colon, reference = whole.rpartition(":")
        if not colon or "/" in reference:
            place, reference = whole, ""
    if not (_DIGEST if at else _TAG).fullmatch(reference):
        raise FetchRefused(f"{whole}: name the artifact, as in {place}:TAG or {place}@sha256:HEX")
    repository = place.removeprefix("oci://").partition("/")[2]
    if host and not _REPOSITORY.fullmatch(repository):
        raise FetchRefused(f"{whole}: {repository!r} is not a repository's name")
    if not host and not path.startswith("/"):
        raise FetchRefused(f"{whole}: a layout is named by its full path, as in oci:///PATH:TAG")
    return Location(OCI, place, reference, stamp)


def check_web(url: str) -> None:
    """Raises FetchRefused unless the URL is https, or http on this host. Files and other schemes
    are refused."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and is_loopback(parts.hostname or ""):
        return
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]
    raise FetchRefused(f"{shown}: only https:// is fetched from, and http:// from this host")


def is_loopback(host: str) -> bool:
    return host == "localhost" or _address_is(host, "is_loopback")


def is_local(host: str) -> bool:
    """Whether the host is this one or on this link, such as the metadata service of a cloud."""
    return is_loopback(host) or _address_is(host, "is_link_local")


def is_address(host: str) -> bool:
    """Whether the host is an address and not a name: no proxy is used for it."""
    return host == "localhost" or _address_is(host, "version")


def _address_is(host: str, kind: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), kind))
    except ValueError:
        return False
