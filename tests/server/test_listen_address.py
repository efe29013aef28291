"""What --listen accepts, and that a refused start leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.listen_address import CannotListen, ListenAddress, check_free, listen_address
from server.api.listener import Listener
from server.config import ServerConfig
from tests.support.patience import patience
from tests.support.ruled_engine import ruled
from tests.support.running import IDENTITY, ROOT, idle_engine, listener


@pytest.mark.parametrize(
    ("text", "target", "local"),
    [
        ("127.0.0.1:8433", "127.0.0.1:8433", True),
        (":8433", "[::]:8433", False),
        ("[::1]:0", "[::1]:0", True),
        ("[::]:1", "[::]:1", False),
        ("localhost:1", "localhost:1", True),
        ("unix:/run/x.sock", "unix:/run/x.sock", True),
    ],
)
def test_the_forms_of_an_address(text: str, target: str, local: bool) -> None:
    address = listen_address(text, anywhere=True)
    assert (address.target(), address.local) == (target, local)


@pytest.mark.parametrize("text", ["8433", "host", "::1:8433", "host:99999", ":", "unix:", ""])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(CannotListen, match="--listen"):
        listen_address(text, anywhere=True)


def test_every_address_needs_insecure() -> None:
    with pytest.raises(CannotListen, match="every address of this host can be reached"):
        listen_address(":8433", anywhere=False)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="107 bytes"):
        listen_address(f"unix:{tmp_path / ('x' * 120)}", anywhere=False)


@pytest.mark.parametrize("form", [":0", "[::1]:0", "unix"])
async def test_each_form_is_served(form: str, tmp_path: Path) -> None:
    if form == "[::1]:0" and not _has_ipv6():
        pytest.skip("there is no IPv6 here")
    listen = f"unix:{tmp_path / 's'}" if form == "unix" else form
    config = ServerConfig(listen=listen, insecure=True)
    async with ruled() as engine:
        running = Listener(engine, config, IDENTITY, leave=lambda: None)
        address = await running.start()
        try:
            part = pb.Part(modality=pb.TEXT, text="hum")
            async with grpc.aio.insecure_channel(address) as channel:
                request = pb.PredictRequest(examples=[pb.Example(parts=[part])])
                answer = await stubs.InferenceStub(channel).Predict(request)
            assert answer.results[0].prediction_id
            with pytest.raises(CannotListen, match="Address already in use"):
                port = listen if form == "unix" else address
                check_free(port, listen_address(port, True))
        finally:
            await running.stop(0)
    assert os.listdir(tmp_path) == []


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_the_socket_of_a_dead_server_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    assert stat.S_ISSOCK(left.lstat().st_mode)
    check_free("unix:", ListenAddress(path=str(left)))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CannotListen, match="another kind"):
        check_free("unix:", ListenAddress(path=str(file)))
    with pytest.raises(CannotListen, match="is not a directory"):
        check_free("unix:", ListenAddress(path=str(tmp_path / "none" / "x")))


# ---- refused starts ------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


REFUSED = {
    "port": (),
    "metrics": ("--listen", "127.0.0.1:0", "--prometheus", "TAKEN"),
    "address": ("--listen", "nonsense"),
    "plaintext": ("--listen", ":0"),
    "pager": ("--listen", "127.0.0.1:0", "--on-alert", "/no/such/pager"),
    "baseline": ("--listen", "127.0.0.1:0", "--baseline", "yesterday"),
    "tls": ("--listen", "127.0.0.1:0", "--tls-cert", "cert.pem"),
    "tokens": ("--listen", "127.0.0.1:0", "--tokens", "tokens"),
    "bundle": ("--listen", "127.0.0.1:0", "--bundle", "/nowhere"),
}


@pytest.mark.parametrize("usable", [True, False], ids=["folder", "no folder"])
@pytest.mark.parametrize("why", REFUSED)
def test_a_refused_start_leaves_nothing_behind(
    why: str, usable: bool, taken: str, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    if not usable:
        data.touch()  # a file: telemetry would be kept in a temporary folder
    flags = [taken if flag == "TAKEN" else flag for flag in REFUSED[why]]
    done = subprocess.run(
        [sys.executable, "-m", "server.main", "--listen", taken, *flags, "--data", str(data)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert done.returncode in (2, 78), done.stderr
    assert "Traceback" not in done.stderr
    assert list(temporary.iterdir()) == []
    assert data.is_file() if not usable else not data.exists()


async def test_http_1_on_the_port_of_grpc_gets_a_frame_and_an_end_and_harms_nobody() -> None:
    """No sentence can be sent: gRPC's library sends its SETTINGS before it has read a byte."""
    async with listener(idle_engine()) as address:
        reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), patience(20))
        assert answer[3:4] == b"\x04", "the type of a SETTINGS frame"
        writer.close()
        async with grpc.aio.insecure_channel(address) as channel:
            request = health_pb2.HealthCheckRequest(service="trefoil.live")
            reply = await health_pb2_grpc.HealthStub(channel).Check(request)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
