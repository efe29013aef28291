"""The Node example against the real program. Needs node and npm; without them it skips, with
the reason."""

from __future__ import annotations

import asyncio
import filecmp
import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import media_bytes as made
from tests.support.patience import patience
from tests.support.ruled_engine import full, hold, ruled, teach
from tests.support.running import ROOT, listener, until
from tests.support.secure_listener import secure_listener

SOURCE = ROOT / "clients" / "node"
# As deep as clients/node, so that the script finds proto/ from there too.
INSTALLED = ROOT / "build" / "node"
INSTALL_WITHIN_S = 300
# npm's codes for a registry that cannot be reached; anything else is ours to mend.
UNREACHED = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH")


@pytest.fixture(scope="module")
def script() -> Path:
    """The example with what its lock file names, installed once into build/."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"the Node example was not run: there is no {program} on this machine")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout
    if tuple(map(int, version.strip().lstrip("v").split(".")[:2])) < (18, 11):
        pytest.skip(f"the Node example was not run: it needs node 18.11, here is {version}")
    lock = INSTALLED / "package-lock.json"
    done = INSTALLED / ".installed"
    if not done.exists() or not filecmp.cmp(SOURCE / lock.name, lock, shallow=False):
        shutil.rmtree(INSTALLED, ignore_errors=True)
        shutil.copytree(SOURCE, INSTALLED, ignore=shutil.ignore_patterns("node_modules"))
        install()
        done.touch()
    copy = INSTALLED / "predict.js"
    shutil.copyfile(SOURCE / copy.name, copy)
    return copy


def install() -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        ended = subprocess.run(
            command,
            cwd=INSTALLED,
            capture_output=True,
            text=True,
            timeout=patience(INSTALL_WITHIN_S),
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the Node example was not run: npm ci took over {INSTALL_WITHIN_S} s")
    if ended.returncode == 0:
        return
    if any(code in ended.stderr for code in UNREACHED):
        pytest.skip(f"the Node example was not run: npm reached no registry:\n{ended.stderr}")
    pytest.fail(f"npm ci failed:\n{ended.stderr}")


def asked(script: Path, *arguments: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        ["node", str(script), *arguments], capture_output=True, text=True, timeout=patience(120)
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_text_image_and_audio_are_answered_from_the_pinned_stamp(
    script: Path, tiny_server: str, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(made.image("JPEG"))
    (tmp_path / "hum.wav").write_bytes(made.sound())
    arguments = ["--server", tiny_server, "--text", "knocking"]
    arguments += ["--image", str(tmp_path / "photo.jpg"), "--audio", str(tmp_path / "hum.wav")]
    code, out, err = asked(script, *arguments, "--slice", "site=a", "--session", "s")
    assert code == 0, err
    found = json.loads(out)
    assert found["label"] == max(found["scores"], key=found["scores"].get)
    assert sum(found["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert len(found["stamp"]) == 64 and found["timings_ms"]["forward"] > 0
    text_used, picture, sound = found["parts_used"]
    assert text_used["modality"] == "text" and text_used["cut"] is False
    assert 0 < text_used["tokens_used"] == text_used["tokens_sent"]
    assert picture["width_used"] > 0 and sound["seconds_used"] == sound["seconds_sent"] > 0
    pinned = ("--expected-stamp", "ab" * 32, "--expected-stamp", found["stamp"])
    code, out, _ = asked(script, *arguments, *pinned)
    assert (code, json.loads(out)["stamp"]) == (0, found["stamp"])
    code, out, err = asked(script, *arguments, "--expected-stamp", "ab" * 32)
    assert (code, out) == (5, "") and f"serving stamp: {found['stamp']}" in err


def test_its_exit_codes_are_those_of_the_command(
    script: Path, tiny_server: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    code, _, err = asked(script, "--server", tiny_server, "--image", str(empty))
    assert code == 3 and "examples[0].parts[0].data" in err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{probe.getsockname()[1]}"
    code, _, err = asked(script, "--server", nowhere, "--text", "hum", "--deadline-ms", "3000")
    assert code == 4, err
    for arguments, complaint in (
        ((), "at least one of --text"),
        (("--text", "hum", "--expected-stamp", "7f3a"), "64 hex digits"),
        (("--text", "hum", "--slice", "site"), "NAME=VALUE"),
        (("--image", "/no/such/file"), "/no/such/file"),
        (("--text", "hum", "--token-file", str(empty)), "--tls-ca"),
        (("--sing",), "--sing"),
    ):
        code, out, err = asked(script, *arguments)
        assert (code, out) == (2, "") and complaint in err


async def test_it_calls_over_tls_with_a_token(script: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    async with ruled() as engine, secure_listener(tmp_path, engine=engine) as site:
        token.write_text(site.bearers["predict"] + "\n")
        call = ("--server", site.address, "--text", "hum", "--deadline-ms", "20000")
        ca = ("--tls-ca", str(site.pem / "ca.pem"))
        good = await asyncio.to_thread(asked, script, *call, *ca, "--token-file", str(token))
        nobody = await asyncio.to_thread(asked, script, *call, *ca)
    assert good[0] == 0 and json.loads(good[1])["label"] == "ok", good[2]
    assert nobody[0] == 1 and "UNAUTHENTICATED" in nobody[2]


async def test_it_calls_over_tls_with_a_certificate(script: Path, tmp_path: Path) -> None:
    async with ruled() as engine, secure_listener(tmp_path, mutual=True, engine=engine) as site:
        call = ("--server", site.address, "--text", "hum", "--deadline-ms", "20000")
        ca = ("--tls-ca", str(site.pem / "ca.pem"))
        pair = ("--tls-cert", str(site.pem / "client-predict.pem"))
        key = ("--tls-key", str(site.pem / "client-predict.key"))
        good = await asyncio.to_thread(asked, script, *call, *ca, *pair, *key)
    assert good[0] == 0 and json.loads(good[1])["label"] == "ok", good[2]


async def test_a_full_server_is_called_again_no_sooner_than_it_asked(script: Path) -> None:
    """gRPC's own retries cannot read the time: the example gave up at once."""
    async with full() as engine, listener(engine) as address:
        call = ("--server", address, "--text", "hum", "--deadline-ms", "60000")
        asking = asyncio.create_task(asyncio.to_thread(asked, script, *call))
        await until(lambda: engine.refused, 60.0)
        engine.gate.open()
        code, out, err = await asking
    assert code == 0 and json.loads(out)["label"] == "ok", err
    assert engine.came_no_sooner_than_asked()


async def test_no_wait_is_begun_that_the_deadline_would_cut_short(script: Path) -> None:
    async with ruled() as engine, listener(engine) as address:
        await teach(engine, 0.05)
        rows = hold(engine, 512)  # of 25 s: it asks for 5 s
        await until(lambda: engine.at_work == len(rows))
        call = ("--server", address, "--text", "hum", "--deadline-ms", "4000")
        code, _, err = await asyncio.to_thread(asked, script, *call)
        assert code == 4 and "RESOURCE_EXHAUSTED" in err
        assert len(engine.received) == len(rows) + 1
