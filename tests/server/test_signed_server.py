"""A whole server that requires signatures and checks itself, from a copy of the sources that the
test may edit: the signer is shown, other bundles are refused, changes are named and alerted."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines.bundle.contents import read_contents
from pipelines.bundle.signature import read_public
from proto import observe_pb2 as pb
from proto.observe_pb2_grpc import ObserveStub
from server.main import main
from tests.pipelines.test_signature import keys, sign_bundle
from tests.support.patience import patience
from tests.support.running import ROOT, channel_to, program
from tests.support.tinybundle import reseal

WEIGHTS = "weights/model.safetensors"
WITHIN_S = 60.0
Captured = pytest.CaptureFixture[str]

# Runs in every process of the server at its start; waits in the replicas alone, which the fork
# server makes.
PATCHER = """
import os, pathlib, sys, threading, time

def patch():
    wanted = pathlib.Path(__file__).with_name("patch")
    while "pipelines.bundle.speed" not in sys.modules:
        time.sleep(0.05)
    module = sys.modules["pipelines.bundle.speed"]
    while not hasattr(module, "_device_class"):
        time.sleep(0.05)
    original = module._device_class
    while True:
        time.sleep(0.05)
        module._device_class = (lambda *a: original(*a)) if wanted.exists() else original

if "server.replica.fork_server" in sys.orig_argv:
    begin = lambda: threading.Thread(target=patch, daemon=True).start()
    os.register_at_fork(after_in_child=begin)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """`root` holds the packages, `site` comes first on the import path, `private` has signed."""

    root: Path
    site: Path
    bundle: Path
    private: Path
    public: Path
    address: str


@pytest.fixture(scope="module")
def place(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("signed")
    root, site, folder = base / "root", base / "site", base / "trusted"
    for package in ("pipelines", "server", "proto", "console"):
        ignore = shutil.ignore_patterns("triage")
        shutil.copytree(ROOT / package, root / package, ignore=ignore)
    shutil.copy(ROOT / "trefoil_serve.py", root)
    for made in (site, folder):
        made.mkdir()
    (site / "sitecustomize.py").write_text(PATCHER)
    bundle = Path(shutil.copytree(tiny_bundle, base / "bundle"))
    private, public = keys(base, "ed25519")
    shutil.copy(public, folder)
    sign_bundle(bundle, private)
    flags = ("--bundle", str(bundle), "--require-signature", str(folder), "--skew-interval", "1")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    with program(*flags, root=root, environment=environment) as server:
        yield Place(root, site, bundle, private, public, server.address)
        assert server.stop() == 0


def asked(capsys: Captured, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    output = capsys.readouterr()
    return code, output.out, output.err


def test_a_bundle_nobody_vouches_for_ends_the_start_with_78(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    public = keys(tmp_path, "p256")[1]
    command = [sys.executable, "-m", "server.main", "--listen", "127.0.0.1:0", "--no-telemetry"]
    command += ["--data", str(tmp_path), "--bundle", str(tiny_bundle)]
    command += ["--require-signature", str(public)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(120))
    assert ended.returncode == 78
    assert "refused: signature: a signature is required: it is not signed" in ended.stdout
    assert "pipelines sign BUNDLE --key KEY" in ended.stdout


def test_who_vouched_is_shown(place: Place, capsys: Captured) -> None:
    code, out, _ = asked(capsys, "status", "--full", "--server", place.address)
    assert code == 0
    assert f"signed   by key {read_public(place.public).id}" in out


def variant(place: Place, tmp_path: Path, title: str) -> Path:
    """Another bundle: the same weights, another card."""
    made = Path(shutil.copytree(place.bundle, tmp_path / "variant"))
    (made / "manifest.sig").unlink()
    (made / "CARD.md").write_text(f"# {title}\n")
    reseal(made)
    return made


def test_load_refuses_what_no_trusted_key_signed_and_what_serves_is_untouched(
    place: Place, tmp_path: Path, capsys: Captured
) -> None:
    other = variant(place, tmp_path, "another")
    load = ("load", str(other), "--server", place.address)
    code, _, err = asked(capsys, *load)
    assert code == 1
    assert "a signature is required: it is not signed" in err
    sign_bundle(other, keys(tmp_path, "ed25519", "stranger")[0])
    code, _, err = asked(capsys, *load)
    assert code == 1 and "which is not trusted" in err
    sign_bundle(other, place.private)
    code, out, _ = asked(capsys, *load)
    assert code == 0 and out.startswith("ready"), "signed by the right key after all"
    code, out, _ = asked(capsys, "status", "--server", place.address)
    assert "READY" in out and read_contents(place.bundle).manifest.stamp_hex in out


class Watched:
    """What a watcher of the server has received."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.snapshot = pb.ServerSnapshot()
        self.alert = pb.AlertRow()

    async def until(self, *names: str, state: int, alert: str, severity: str = "") -> None:
        """Every replica names exactly these, the server is `state`, the skew alert is `alert`."""
        async with asyncio.timeout(patience(WITHIN_S)):
            while not (
                self._moved() == sorted(names)
                and self.snapshot.state == state
                and self.alert.state == alert
                and severity in ("", self.alert.severity)
            ):
                event = await self._call.read()
                if event.WhichOneof("event") == "snapshot":
                    self.snapshot = event.snapshot
                elif event.alert.kind == "skew":
                    self.alert = event.alert

    def _moved(self) -> list[str]:
        return sorted(i.name for r in self.snapshot.replicas for i in r.self_check.changed)


@asynccontextmanager
async def watching(address: str) -> AsyncIterator[Watched]:
    async with channel_to(address) as channel:
        call = ObserveStub(channel).Watch(pb.WatchRequest(interval_s=0.2))
        yield Watched(call)
        call.cancel()


def put(file: Path, data: bytes) -> None:
    """In the place of another: written over, a file that replicas map would change in memory."""
    fresh = file.with_name("fresh")
    fresh.write_bytes(data)
    fresh.replace(file)


async def test_what_moves_under_a_server_is_named_and_what_is_put_right_heals(
    place: Place, capsys: Captured
) -> None:
    weights = place.bundle / WEIGHTS
    module = place.root / "pipelines" / "models" / "qwen" / "log_mel.py"
    upgraded = place.site / "numpy-99.0.dist-info"
    before = weights.read_bytes(), module.read_bytes()
    verify = ("status", "--verify", "--server", place.address)
    async with watching(place.address) as watched:
        await watched.until(state=pb.READY, alert="")
        code, out, _ = await asyncio.to_thread(asked, capsys, *verify)
        assert code == 0 and "; every byte " in out, out

        put(weights, before[0][:-1] + bytes([before[0][-1] ^ 1]))
        names = [WEIGHTS]
        await watched.until(*names, state=pb.DEGRADED, alert="firing", severity="high")
        assert watched.snapshot.reason.startswith("version skew: replica 0: weights/model")
        assert watched.alert.summary == watched.snapshot.reason
        module.write_bytes(before[1] + b"# edited\n")
        names.append("pipelines/models/qwen/log_mel.py")
        await watched.until(*names, state=pb.DEGRADED, alert="firing")
        upgraded.mkdir()
        (upgraded / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 99.0\n")
        names.append("numpy")
        await watched.until(*names, state=pb.DEGRADED, alert="firing")
        (place.site / "patch").touch()
        names.append("pipelines.bundle.speed._device_class")
        await watched.until(*names, state=pb.DEGRADED, alert="firing", severity="critical")
        code, out, _ = await asyncio.to_thread(asked, capsys, *verify)
        assert code == 1
        assert "NOW: pipelines.bundle.speed._device_class was replaced in memory" in out
        assert f"at the next start: {WEIGHTS} was changed on disk" in out

        put(weights, before[0])
        module.write_bytes(before[1])
        shutil.rmtree(upgraded)
        (place.site / "patch").unlink()
        await watched.until(state=pb.READY, alert="resolved")
        code, _, _ = await asyncio.to_thread(asked, capsys, *verify)
        assert code == 0
