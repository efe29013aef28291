"""Access control over real TLS on loopback: every method x every role x every credential."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from proto import admin_pb2, inference_pb2, observe_pb2
from server.request.actor import ACTOR
from server.security import authority, roles, tls, tokens
from server.security.audit import AuditLog
from server.security.guard import Guard, identity_of_uri
from server.security.roles import ALLOWED, ROLES
from tests.support.patience import patience

NOW = dt.datetime.now(dt.UTC)


def every_method() -> dict[str, tuple[bool, bool]]:
    """Method path -> (client streams, server streams), from the descriptors and the table."""
    found: dict[str, tuple[bool, bool]] = {}
    files = (
        inference_pb2.DESCRIPTOR,
        observe_pb2.DESCRIPTOR,
        admin_pb2.DESCRIPTOR,
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
    )
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                found[path] = (method.client_streaming, method.server_streaming)
    return found


METHODS = every_method()


class Anything(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every method of the table with an empty message, in its own kind."""

    def service(self, details: Any) -> Any:
        client_streams, server_streams = METHODS.get(details.method, (False, False))

        async def one(_request: Any, _context: Any) -> bytes:
            return ACTOR.get().encode()

        async def many(_request: Any, _context: Any) -> AsyncIterator[bytes]:
            yield b""

        if client_streams and server_streams:
            return grpc.stream_stream_rpc_method_handler(many)
        if client_streams:
            return grpc.stream_unary_rpc_method_handler(one)
        if server_streams:
            return grpc.unary_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(one)


@dataclass(frozen=True, slots=True)
class Site:
    target: str
    directory: Path
    bearers: dict[str, str]
    audit: Path


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    authority.make(tmp_path / "tls", ["127.0.0.1", "localhost"], NOW)
    file = tmp_path / "tokens"
    bearers: dict[str, str] = {role: tokens.add(file, f"{role}-person", role, 0) for role in ROLES}
    bearers["expired"] = tokens.add(file, "gone", "admin", 1)
    audit = AuditLog(tmp_path / "audit.jsonl")
    directory = tmp_path / "tls"
    # A client certificate is asked for but not forced here, so that tokens can be tried too.
    files = tls.TlsFiles(directory / "server.pem", directory / "server.key", None)
    server = grpc.aio.server(interceptors=[Guard(tokens.TokenFile(file), audit)])
    server.add_generic_rpc_handlers((Anything(),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
    await server.start()
    yield Site(f"127.0.0.1:{port}", directory, bearers, tmp_path / "audit.jsonl")
    await server.stop(None)
    audit.close()


async def code_of(channel: grpc.aio.Channel, method: str, bearer: str | None) -> grpc.StatusCode:
    client_streams, server_streams = METHODS.get(method, (False, False))
    metadata = (("authorization", f"Bearer {bearer}"),) if bearer is not None else ()

    async def requests() -> AsyncIterator[bytes]:
        yield b""

    try:
        if client_streams and server_streams:
            async for _ in channel.stream_stream(method)(requests(), metadata=metadata):
                pass
        elif client_streams:
            await channel.stream_unary(method)(requests(), metadata=metadata)
        elif server_streams:
            async for _ in channel.unary_stream(method)(b"", metadata=metadata):
                pass
        else:
            await channel.unary_unary(method)(b"", metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def secure(site: Site, **files: Path) -> grpc.aio.Channel:
    pair = {name: path.read_bytes() for name, path in files.items()}
    roots = (site.directory / "ca.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(roots, pair.get("key"), pair.get("certificate"))
    return grpc.aio.secure_channel(site.target, credentials)


async def test_every_method_obeys_the_table_for_every_role_and_credential(site: Site) -> None:
    async with secure(site) as channel:
        for method in sorted(METHODS.keys() | ALLOWED.keys() | {"/trefoil.v1.Inference/Unheard"}):
            for role in ROLES:
                code = await code_of(channel, method, site.bearers[role])
                open_to_all = roles.is_open(method)
                allowed = open_to_all or roles.permits(method, role)
                expected = grpc.StatusCode.OK if allowed else grpc.StatusCode.PERMISSION_DENIED
                assert code == expected, (method, role)
            refused = (
                grpc.StatusCode.OK if roles.is_open(method) else grpc.StatusCode.UNAUTHENTICATED
            )
            for bearer in (None, "trefoil_wrong", site.bearers["expired"]):
                assert await code_of(channel, method, bearer) == refused, (method, bearer)


def test_every_method_of_every_service_is_in_the_table() -> None:
    assert METHODS.keys() - ALLOWED.keys() == set()


async def test_admin_calls_are_logged_whether_allowed_or_not(site: Site) -> None:
    async with secure(site) as channel:
        await code_of(channel, "/trefoil.v1.Admin/Activate", site.bearers["admin"])
        await code_of(channel, "/trefoil.v1.Admin/Activate", site.bearers["predict"])
        await code_of(channel, "/trefoil.v1.Inference/Predict", site.bearers["admin"])
    lines = [json.loads(line) for line in site.audit.read_text().splitlines()]
    assert [(line["who"], line["denied"]) for line in lines] == [
        ("admin-person", False),
        ("predict-person", True),
    ]


async def test_the_name_of_the_caller_is_recorded_with_the_action(site: Site) -> None:
    async with secure(site) as channel:
        rollback = channel.unary_unary("/trefoil.v1.Admin/Rollback")
        metadata = (("authorization", f"Bearer {site.bearers['admin']}"),)
        assert await rollback(b"", metadata=metadata) == b"admin-person"
    assert ACTOR.get() == ""


async def test_a_revoked_token_stops_at_once(site: Site) -> None:
    file = site.directory.parent / "tokens"
    async with secure(site) as channel:
        method = "/trefoil.v1.Inference/Predict"
        assert await code_of(channel, method, site.bearers["predict"]) == grpc.StatusCode.OK
        kept = [line for line in file.read_text().splitlines() if "predict-person" not in line]
        file.write_text("\n".join(kept) + "\n")
        code = await code_of(channel, method, site.bearers["predict"])
        assert code == grpc.StatusCode.UNAUTHENTICATED


async def test_a_client_certificate_carries_its_role(tmp_path: Path) -> None:
    directory = tmp_path / "tls"
    authority.make(directory, ["127.0.0.1"], NOW)
    files = tls.TlsFiles(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    server = grpc.aio.server(interceptors=[Guard(None, None)])
    server.add_generic_rpc_handlers((Anything(),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
    await server.start()
    site = Site(f"127.0.0.1:{port}", directory, {}, tmp_path)
    for role, expected in (
        ("observe", grpc.StatusCode.OK),
        ("predict", grpc.StatusCode.PERMISSION_DENIED),
    ):
        pair = {
            "certificate": directory / f"client-{role}.pem",
            "key": directory / f"client-{role}.key",
        }
        async with secure(site, **pair) as channel:
            assert await code_of(channel, "/trefoil.v1.Observe/Watch", None) == expected
    async with secure(site) as channel:  # no certificate at all: the handshake fails
        code = await code_of(channel, "/grpc.health.v1.Health/Check", None)
        assert code == grpc.StatusCode.UNAVAILABLE
    await server.stop(None)


async def test_a_rotated_certificate_is_used_without_a_restart(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    authority.make(other, ["127.0.0.1"], NOW)
    for name in ("server.pem", "server.key"):
        (site.directory / name).write_bytes((other / name).read_bytes())
    new = Site(site.target, other, site.bearers, site.audit)
    async with secure(new) as channel:
        code = await code_of(channel, "/trefoil.v1.Inference/Predict", site.bearers["predict"])
        assert code == grpc.StatusCode.OK


def test_tokens_are_never_stored(tmp_path: Path) -> None:
    bearer = tokens.add(tmp_path / "tokens", "someone", "predict", 0)
    assert bearer not in (tmp_path / "tokens").read_text()
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600


def test_a_broken_token_file_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    tokens.add(file, "someone", "predict", 0)
    with file.open("a") as appended:
        appended.write('{"name": "x", "role": "root", "sha256": "", "expires_unix_s": 0}\n')
    with pytest.raises(tokens.TokenFileInvalid, match="line 2.*root"):
        tokens.TokenFile(file)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://trefoil/owner/x",
        "spiffe://elsewhere/admin/x",
        "https://trefoil/admin/x",
        "spiffe://trefoil/admin/",
    ],
)
def test_a_foreign_certificate_name_is_nobody(uri: str) -> None:
    assert identity_of_uri(uri.encode()) is None


async def test_health_answers_without_a_credential(site: Site) -> None:
    async with secure(site) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await asyncio.wait_for(stub.Check(health_pb2.HealthCheckRequest()), patience(5))


async def test_a_call_without_a_credential_is_refused_before_its_message(tmp_path: Path) -> None:
    """Its message never comes here, and the answer does."""
    authority.make(tmp_path / "tls", ["127.0.0.1"], NOW)
    bearer = tokens.add(tmp_path / "tokens", "watcher", "observe", 0)
    files = tls.TlsFiles(tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key", None)
    guard = Guard(tokens.TokenFile(tmp_path / "tokens"), None, certificates=False)
    server = grpc.aio.server(interceptors=[guard])
    server.add_generic_rpc_handlers((Anything(),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
    await server.start()
    site = Site(f"127.0.0.1:{port}", tmp_path / "tls", {}, tmp_path)
    async with secure(site) as channel:
        for given, code in (
            ("trefoil_wrong", grpc.StatusCode.UNAUTHENTICATED),
            (None, grpc.StatusCode.UNAUTHENTICATED),
            (bearer, grpc.StatusCode.PERMISSION_DENIED),
        ):
            metadata = (("authorization", f"Bearer {given}"),) if given else ()
            silent = channel.stream_unary("/trefoil.v1.Inference/Predict")(metadata=metadata)
            assert await asyncio.wait_for(silent.code(), patience(10.0)) == code
    await server.stop(None)


def certificate_with(name: x509.GeneralName, folder: Path) -> dict[str, Path]:
    """A client certificate of this authority with one alternative name, as its files."""
    made = authority.new_authority(NOW)
    authority.make_leaf(folder, "forged", [name], made, NOW)
    (folder / "forged-ca.pem").write_bytes(
        made.certificate.public_bytes(serialization.Encoding.PEM)
    )
    return {"certificate": folder / "forged.pem", "key": folder / "forged.key"}


ADMIN_NAME = "spiffe://trefoil/admin/mallory"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (x509.DNSName(ADMIN_NAME), grpc.StatusCode.UNAUTHENTICATED),
        (x509.RFC822Name(ADMIN_NAME), grpc.StatusCode.UNAUTHENTICATED),
        (x509.UniformResourceIdentifier(ADMIN_NAME), grpc.StatusCode.OK),
    ],
    ids=["dns", "email", "uri"],
)
async def test_only_a_uri_in_a_certificate_is_an_identity(
    tmp_path: Path, name: x509.GeneralName, code: grpc.StatusCode
) -> None:
    authority.make(tmp_path, ["127.0.0.1"], NOW)
    pair = certificate_with(name, tmp_path)
    files = tls.TlsFiles(
        tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "forged-ca.pem"
    )
    server = grpc.aio.server(interceptors=[Guard(None, None)])
    server.add_generic_rpc_handlers((Anything(),))
    port = server.add_secure_port("127.0.0.1:0", tls.server_credentials(files))
    await server.start()
    async with secure(Site(f"127.0.0.1:{port}", tmp_path, {}, tmp_path), **pair) as channel:
        assert await code_of(channel, "/trefoil.v1.Admin/Activate", None) == code
    await server.stop(None)
