"""Bundles from a web server, a registry, a layout and an object store: complete, or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.deploy.bundle_store import BundleStore, Stored, StoreRefused
from server.deploy.expected_stamp import ExpectedStamp
from server.deploy.remote.artifact import Registry
from server.deploy.remote.fetch import FETCHING, Fetcher
from server.deploy.remote.keeper import FetchBroken
from server.deploy.remote.location import FetchRefused, locate
from server.deploy.remote.objects import ObjectStore
from server.deploy.remote.web import Web, check_led
from server.errors import DeployRefused
from server.values import by_stamp
from tests.support.bundle_shelf import Shelf, kept_bundle, listed, oci_layout, shelf
from tests.support.running import until
from tests.support.stub_bundles import site

B = "b" * 64
WEIGHTS = "/kept-right-b/weights/model.safetensors"


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Shelf]:
    """A web server that has bundle `b`."""
    folder = tmp_path / "shelf"
    kept_bundle(folder, "b", os.urandom(700_000))
    with shelf(folder) as found:
        yield found


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    return BundleStore(tmp_path / "bundles")


def fetch(store: BundleStore, url: str, stopped: threading.Event | None = None) -> Stored:
    fetcher = Fetcher(store.root, first_wait_s=0.001)
    return fetcher.into(store, url, lambda *_: None, stopped or threading.Event())


def refused(store: BundleStore, url: str) -> str:
    """Why it was refused; nothing of it is in the store."""
    with pytest.raises(FetchRefused) as error:
        fetch(store, url)
    assert store.bundles() == []
    return str(error.value)


def same(stored: Stored, source: Path) -> bool:
    names = {p.relative_to(source) for p in source.rglob("*") if p.is_file()}
    found = {p.relative_to(stored.path) for p in stored.path.rglob("*") if p.is_file()}
    return names == found and all(
        (stored.path / name).read_bytes() == (source / name).read_bytes() for name in names
    )


def test_a_bundle_behind_a_web_server_is_stored_by_its_stamp(
    kept: Shelf, store: BundleStore
) -> None:
    stored = fetch(store, f"{kept.url}/kept-right-b#{B[:12]}")
    assert stored.path == store.root / "right" / B[:12]
    assert same(stored, kept.folder / "kept-right-b")
    assert (stored.path / "manifest.json").stat().st_mode & 0o777 == 0o444
    assert list((store.root / FETCHING).glob("*")) == []
    asked = len(kept.asked)
    assert fetch(store, f"{kept.url}/kept-right-b/") == stored
    small = [path for path, _, _ in kept.asked[asked:]]
    assert small == [f"/kept-right-b/{n}" for n in ("manifest.json", "manifest.sig", "model.sig")]


def test_a_fetch_that_breaks_half_way_goes_on_where_it_was(kept: Shelf, store: BundleStore) -> None:
    kept.cut[WEIGHTS] = 300_000
    assert same(fetch(store, f"{kept.url}/kept-right-b"), kept.folder / "kept-right-b")
    assert kept.ranges_of(WEIGHTS) == ["", "bytes=300000-"]


def test_a_server_without_ranges_is_read_from_the_start(kept: Shelf, store: BundleStore) -> None:
    kept.ranges, kept.cut[WEIGHTS] = False, 300_000
    assert same(fetch(store, f"{kept.url}/kept-right-b"), kept.folder / "kept-right-b")


def test_what_arrived_before_the_server_ended_is_not_fetched_again(
    kept: Shelf, store: BundleStore
) -> None:
    kept.status[WEIGHTS] = 503
    message = refused(store, f"{kept.url}/kept-right-b")
    assert "answered 503" in message and "repeat the command to continue" in message
    part = next((store.root / FETCHING / B / "parts").iterdir())
    part.write_bytes((kept.folder / WEIGHTS.lstrip("/")).read_bytes()[:400_000])
    kept.status.clear()
    again = BundleStore(store.root)  # as after a restart
    assert same(fetch(again, f"{kept.url}/kept-right-b"), kept.folder / "kept-right-b")
    assert kept.ranges_of(WEIGHTS)[-1] == "bytes=400000-"
    assert kept.ranges_of("/kept-right-b/labels.json") == [""]


def test_a_wrong_beginning_costs_a_second_reading(kept: Shelf, store: BundleStore) -> None:
    kept.status[WEIGHTS] = 503
    refused(store, f"{kept.url}/kept-right-b")
    next((store.root / FETCHING / B / "parts").iterdir()).write_bytes(b"of another day")
    kept.status.clear()
    assert same(fetch(store, f"{kept.url}/kept-right-b"), kept.folder / "kept-right-b")
    assert kept.ranges_of(WEIGHTS)[-2:] == ["bytes=14-", ""]


def test_other_bytes_than_the_manifest_lists_are_refused(kept: Shelf, store: BundleStore) -> None:
    size = (kept.folder / WEIGHTS.lstrip("/")).stat().st_size
    kept.garbage[WEIGHTS] = b"x" * size
    assert "is not the file in its manifest" in refused(store, f"{kept.url}/kept-right-b")
    kept.garbage[WEIGHTS] = b"x" * (size + 1)
    assert "is longer than in its manifest" in refused(store, f"{kept.url}/kept-right-b")
    kept.garbage[WEIGHTS] = b"x" * (size - 1)
    assert "ended 1 bytes early" in refused(store, f"{kept.url}/kept-right-b")
    assert "not cccccccccccc" in refused(store, f"{kept.url}/kept-right-b#{'c' * 64}")


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("file:///etc/passwd", "only https://"),
        ("ftp://127.0.0.1/x", "only https://"),
        ("http://192.0.2.1/x", "only https://"),
        ("", "redirects to nowhere"),
        (WEIGHTS, "more than 5 redirects"),
    ],
)
def test_a_redirect_to_a_file_or_to_plaintext_is_not_followed(
    kept: Shelf, store: BundleStore, to: str, reason: str
) -> None:
    kept.redirect[WEIGHTS] = to
    assert reason in refused(store, f"{kept.url}/kept-right-b")


def test_a_redirect_is_followed_without_the_credentials(
    kept: Shelf, store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a registry sends its callers to a store: on another port, another server."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login reader password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with shelf(kept.folder) as other:
        kept.redirect[WEIGHTS] = f"{other.url}{WEIGHTS}"
        assert same(fetch(store, f"{kept.url}/kept-right-b"), kept.folder / "kept-right-b")
    assert {auth[:6] for _, _, auth in kept.asked} == {"Basic "}
    assert other.asked == [(WEIGHTS, "", "")]


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("https://127.0.0.1/x", "this host or its link"),
        ("https://localhost/x", "this host or its link"),
        ("http://127.0.0.1:8080/x", "this host or its link"),
        ("https://169.254.169.254/latest", "this host or its link"),
        ("https://[fe80::1]/x", "this host or its link"),
        ("http://store.example/x", "only https://"),
    ],
)
def test_the_web_does_not_lead_to_this_host(to: str, reason: str) -> None:
    with pytest.raises(FetchRefused, match=reason):
        check_led("https://registry.example/v2/", to)
    check_led("https://registry.example/v2/", "https://store.example/x")


def test_a_registry_does_not_send_for_a_token_to_this_host() -> None:
    registry = Registry(Web(), locate("oci://registry.example/bundles:prod"))
    asked = "https://registry.example/v2/bundles/manifests/prod"
    with pytest.raises(FetchRefused, match="this host or its link"):
        registry._authorized('Bearer realm="http://127.0.0.1:9/token"', asked)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"files": [{"path": "../../x", "size": 1, "sha256": "0" * 64}]}, "not the name of a file"),
        ({"files": [{"path": "/etc/x", "size": 1, "sha256": "0" * 64}]}, "not the name of a file"),
        ({"files": [{"path": ".x", "size": 1, "sha256": "0" * 64}]}, "not the name of a file"),
        ({"files": [{"path": "manifest.json", "size": 1, "sha256": "0" * 64}]}, "covers it"),
        ({"files": [{"path": "x", "size": 1 << 50, "sha256": "0" * 64}]}, "MiB are free"),
        ({"files": [{"path": "x", "size": -1, "sha256": "0" * 64}]}, "no size and sha256"),
        ({"files": [{"path": "x", "size": 1, "sha256": "0"}]}, "no size and sha256"),
        ({"files": [{"path": p, "size": 1, "sha256": "0" * 64} for p in "xX"]}, "only in case"),
        ({"files": [{}] * 5000}, "at most 4096"),
        ({"files": []}, "lists no files"),
        ({"name": "../up"}, "names '../up'"),
        ({"stamp": "latest"}, "stamp 'latest'"),
    ],
)
def test_a_manifest_cannot_lead_out_of_the_store_or_fill_the_disk(
    kept: Shelf, store: BundleStore, claims: dict[str, object], reason: str
) -> None:
    listed(kept.folder / "kept-right-b", {"name": "right", "stamp": B, **claims})
    assert reason in refused(store, f"{kept.url}/kept-right-b")
    assert kept.ranges_of(WEIGHTS) == []


def test_a_manifest_without_an_end_is_not_read_to_its_end(kept: Shelf, store: BundleStore) -> None:
    kept.garbage["/kept-right-b/manifest.json"] = b" " * (17 << 20)
    assert "larger than 16777216 bytes" in refused(store, f"{kept.url}/kept-right-b")
    kept.garbage["/kept-right-b/manifest.json"] = b"[" * 100_000
    assert "nested too deep" in refused(store, f"{kept.url}/kept-right-b")
    assert "has no manifest.json" in refused(store, f"{kept.url}/nothing")


def test_a_layout_and_a_registry_give_the_same_bundle(
    kept: Shelf, store: BundleStore, tmp_path: Path
) -> None:
    source, layout = kept.folder / "kept-right-b", tmp_path / "layout"
    digest = oci_layout(source, layout, "prod")
    for reference in (":prod", f"@{digest}"):
        stored = fetch(store, f"oci://{layout}{reference}")
        assert same(stored, source)
        store.remove(stored)
    kept.layout = layout
    for reference in (":prod", f"@{digest}"):
        stored = fetch(store, f"oci://{kept.host}/bundles{reference}#{B}")
        assert same(stored, source)
        store.remove(stored)
    assert "lists" not in refused(store, f"oci://{kept.host}/bundles:other")
    assert "is not in that layout: prod" in refused(store, f"oci://{layout}:other")
    assert "not an OCI image layout" in refused(store, f"oci://{tmp_path}:prod")
    (layout / "index.json").unlink()
    assert "index.json: No such file" in refused(store, f"oci://{layout}:prod")


def test_an_artifact_with_another_digest_or_a_packed_folder_is_refused(
    kept: Shelf, store: BundleStore, tmp_path: Path
) -> None:
    kept.layout = tmp_path / "layout"
    digest = oci_layout(kept.folder / "kept-right-b", kept.layout, "prod")
    path = f"/v2/bundles/manifests/{digest}"
    kept.garbage[path] = b'{"layers": []}'
    assert "and not sha256:" in refused(store, f"oci://{kept.host}/bundles@{digest}")
    blob = kept.layout / "blobs" / "sha256" / digest.removeprefix("sha256:")
    manifest = json.loads(blob.read_text())
    for layer in manifest["layers"]:
        layer["annotations"]["io.deis.oras.content.unpack"] = "true"
    kept.garbage["/v2/bundles/manifests/prod"] = json.dumps(manifest).encode()
    assert "push each file" in refused(store, f"oci://{kept.host}/bundles:prod")
    kept.garbage["/v2/bundles/manifests/prod"] = b'{"layers": [{"digest": "x"}]}'
    assert "no layer has a title" in refused(store, f"oci://{kept.host}/bundles:prod")


def test_an_object_store_is_read_through_fsspec(
    kept: Shelf, store: BundleStore, tmp_path: Path
) -> None:
    """fsspec's own file system in memory: the interface is that of s3fs."""
    fsspec = pytest.importorskip("fsspec")
    memory, source = fsspec.filesystem("memory"), kept.folder / "kept-right-b"
    memory.put(str(source), "/bucket/b", recursive=True)
    objects = ObjectStore(memory, "/bucket/b")
    assert objects.small("manifest.sig", 10) is None
    with pytest.raises(FetchRefused, match="at most 10"):
        objects.small("manifest.json", 10)
    whole = (source / "manifest.json").read_bytes()
    assert objects.small("manifest.json", 1 << 20) == whole
    body = objects.open("manifest.json", 5)
    assert (body.start, body.read(1 << 20)) == (5, whole[5:])
    with pytest.raises(FetchRefused, match="FileNotFoundError"):
        objects.open("absent", 0).read(1)


class Failing:
    """A file system of fsspec whose every call fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def info(self, path: str) -> dict[str, int]:
        raise self.error

    def open(self, path: str, mode: str, **options: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ConnectionResetError("by the store"), FetchBroken),
        (TimeoutError("no answer"), FetchBroken),
        (PermissionError("access denied"), FetchRefused),
        (ValueError("not the name of a bucket"), FetchRefused),
        (OSError("Unable to locate Credentials"), FetchRefused),
        (KeyError("a fault of the library or of this program"), KeyError),
    ],
)
def test_what_an_object_store_raises_is_tried_again_refused_or_a_fault(
    error: Exception, found: type[Exception]
) -> None:
    objects = ObjectStore(Failing(error), "/bucket/b")
    with pytest.raises(found):
        objects.small("manifest.json", 10)
    with pytest.raises(found):
        objects.open("manifest.json", 0)


def test_s3_over_http(kept: Shelf, store: BundleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real s3fs and botocore, with a server that knows GET and HEAD of an object."""
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", kept.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    assert same(fetch(store, "s3://kept-right-b/"), kept.folder / "kept-right-b")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc", "a bundle is loaded from"),
        ("github://x:y@z/", "no credentials"),
        ("simplecache::s3://x/y", "a bundle is loaded from"),
        ("http://192.0.2.1/b", "only https://"),
        ("http://169.254.169.254/latest", "only https://"),
        ("https://user:secret@host.example/b", "no credentials"),
        ("https://host.example/b?token=1", "no query"),
        ("https://host.example/b#latest", "after # comes a stamp"),
        ("https:///b", "only https://"),
        ("oci://host.example/repo", "name the artifact"),
        ("oci://host.example/Repo:1", "not a repository's name"),
        ("oci://host.example/repo@sha256:12", "name the artifact"),
        ("s3://", "names no host or bucket"),
    ],
)
def test_other_addresses_are_refused_before_a_byte_is_fetched(url: str, reason: str) -> None:
    with pytest.raises(FetchRefused, match=reason) as error:
        locate(url)
    assert "secret" not in str(error.value)


def test_a_caller_who_goes_away_ends_the_fetch(kept: Shelf, store: BundleStore) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(FetchRefused, match="kept for the next load"):
        fetch(store, f"{kept.url}/kept-right-b", stopped)


async def test_a_server_loads_a_url_and_serves_it(kept: Shelf, tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        steps: list[str] = []
        await one.deployment.load(
            f"{kept.url}/kept-right-b", "", True, lambda step: steps.append(step.name)
        )
        assert steps[0] == "fetching" and steps[-1] == "activated"
        assert one.engine.facts is not None and one.engine.facts.stamp == B
        with pytest.raises(DeployRefused, match="has no manifest.json"):
            await one.deployment.load(f"{kept.url}/absent", "", True, lambda step: None)
        assert one.recorded[-1][0] == "refuse"


async def test_what_the_fleet_expects_comes_from_where_it_keeps_it(
    kept: Shelf, tmp_path: Path
) -> None:
    template = by_stamp(f"{kept.url}/{{stamp}}")
    expected = ExpectedStamp(B, template)
    async with site(tmp_path) as one:
        one.engine._withheld = expected.withheld
        await until(lambda: one.engine.snapshot().state == "NOT_READY")
        obeying = asyncio.create_task(expected.obey(one.deployment, 0.01, 0.01))
        await until(lambda: "has no manifest.json" in one.engine.snapshot().reason)
        assert f"{kept.url}/{B}" in one.engine.snapshot().reason
        (kept.folder / "kept-right-b").rename(kept.folder / B)
        await until(lambda: one.engine.snapshot().state == "READY", 60)
        await obeying
        assert one.engine.facts is not None and one.engine.facts.stamp == B


async def test_a_fault_of_a_library_does_not_end_the_wait_for_the_expected_bundle(
    kept: Shelf, tmp_path: Path
) -> None:
    faults: list[Exception] = [KeyError("of a library")]

    def web() -> Web:
        if faults:
            raise faults.pop()
        return Web()

    (kept.folder / "kept-right-b").rename(kept.folder / B)
    expected = ExpectedStamp(B, f"{kept.url}/{{stamp}}")
    async with site(tmp_path) as one:
        one.deployment.fetcher = Fetcher(one.deployment.store.root, web)
        one.engine._withheld = expected.withheld
        obeying = asyncio.create_task(expected.obey(one.deployment, 0.01, 0.01))
        await until(lambda: one.engine.snapshot().state == "READY", 60)
        await obeying
    assert not faults


def test_the_template_names_a_url_for_each_stamp() -> None:
    assert by_stamp("oci://host.example/bundles:{stamp}")
    for text in ("https://host.example/bundles", "http://host.example/{stamp}", "/srv/{stamp}"):
        with pytest.raises(ValueError):
            by_stamp(text)


def test_a_bundle_that_is_fetched_is_not_listed_before_it_is_whole(
    kept: Shelf, store: BundleStore
) -> None:
    kept.status[WEIGHTS] = 503
    refused(store, f"{kept.url}/kept-right-b")
    with pytest.raises(StoreRefused):
        store.find(B)
