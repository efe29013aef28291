"""The TLS files: what `server init-tls` creates, and the messages about files that do not fit."""

from __future__ import annotations

import datetime as dt
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from server.commands.connection import connection_hint
from server.main import main as command
from server.security import authority, pem
from tests.support.running import ROOT

NOW = dt.datetime.now(dt.UTC)


def test_strict_clients_and_servers_take_the_certificates(tmp_path: Path) -> None:
    """VERIFY_X509_STRICT, which Python 3.13 sets by default, wants key identifiers and usages."""
    authority.make(tmp_path, ["localhost"], NOW)
    ends = []
    for purpose, stem in (
        (ssl.Purpose.SERVER_AUTH, "client-predict"),
        (ssl.Purpose.CLIENT_AUTH, "server"),
    ):
        context = ssl.create_default_context(purpose, cafile=str(tmp_path / "ca.pem"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(tmp_path / f"{stem}.pem", tmp_path / f"{stem}.key")
        ends.append(context)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ends[0].wrap_bio(to_client, to_server, server_hostname="localhost")
    server = ends[1].wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    assert client.getpeercert() and server.getpeercert()


def test_a_second_init_never_overwrites_the_authority(tmp_path: Path) -> None:
    authority.make(tmp_path, ["localhost"], NOW)
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(FileExistsError):
        authority.make(tmp_path, ["localhost"], NOW)
    assert (tmp_path / "ca.key").read_bytes() == before


def test_tls_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    authority.make(tmp_path, ["localhost"], NOW)
    authority.make(tmp_path / "old", ["localhost"], NOW - dt.timedelta(days=400))
    (tmp_path / "bad.pem").write_text("no certificate")
    good, key = tmp_path / "server.pem", tmp_path / "server.key"
    pem.check_pair(good, key)
    with pytest.raises(pem.BadPem, match=r"client-admin.key is not the key of .*server.pem"):
        pem.check_pair(good, tmp_path / "client-admin.key")
    with pytest.raises(pem.BadPem, match=r"bad.pem holds no certificate"):
        pem.check_pair(tmp_path / "bad.pem", key)
    with pytest.raises(pem.BadPem, match=r"bad.pem is not a private key"):
        pem.check_pair(good, tmp_path / "bad.pem")
    assert pem.lapse(good, NOW) == ""
    assert "EXPIRED on" in pem.lapse(tmp_path / "old" / "server.pem", NOW)
    assert "expires on" in pem.lapse(good, NOW + dt.timedelta(days=390))
    assert "not valid before" in pem.lapse(good, NOW - dt.timedelta(days=1))


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--tls-ca", "ca.pem", "--tls-cert", "client-admin.pem"], "belong together"),
        (["--tls-ca", "ca.pem", "--tls-key", "client-admin.key"], "belong together"),
        (["--tls-cert", "client-admin.pem", "--tls-key", "client-admin.key"], "need --tls-ca"),
        (["--tls-ca", "ca.key"], "holds no certificate"),
        (["--tls-ca", "ca.pem", "--tls-cert", "server.pem", "--tls-key", "ca.key"], "not the key"),
    ],
)
def test_half_a_certificate_is_wrong_usage_and_not_an_abort(
    arguments: list[str], output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.make(tmp_path, ["localhost"], NOW)
    there = [word if word.startswith("--") else str(tmp_path / word) for word in arguments]
    with pytest.raises(SystemExit) as ended:
        command(["status", "--server", "localhost:1", *there])
    assert ended.value.code == 2
    assert output in capsys.readouterr().err


def test_a_foreign_key_is_reported_as_such_and_not_as_a_taken_port(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.make(tmp_path, ["localhost"], NOW)
    files = ["--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "ca.key")]
    assert command([*files, "--listen", "localhost:0", "--data", str(tmp_path / "data")]) != 0
    output = capsys.readouterr()
    assert "ca.key is not the key of" in output.err + output.out


@pytest.mark.parametrize(
    ("message", "output"),
    [
        ("last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", "--tls-cert"),
        ("Hostname Verification Check failed.", "another name"),
        ("SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: certificate has expired", "has expired"),
        ("Stream removed (Socket closed)", "ended meanwhile"),
        ("Cancelling all calls", "ended meanwhile"),
        ("Connection refused", ""),
    ],
)
def test_a_broken_handshake_is_reported_with_its_possible_cause(message: str, output: str) -> None:
    assert (output in connection_hint(message)) if output else connection_hint(message) == ""


def test_without_tls_nothing_of_cryptography_is_loaded() -> None:
    """It is 8 MiB of every server's front, and a moment of every command."""
    code = (
        "import sys, server.commands.serve as serve, server.commands.predict as predict\n"
        "from server.config import ServerConfig\n"
        "assert serve.credentials_of(ServerConfig()) is None\n"
        "predict.connect(predict.parser().parse_args(['--text', 'hum']))\n"
        "sys.exit('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
