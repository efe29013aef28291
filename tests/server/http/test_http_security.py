"""The HTTP port lets in whom the gRPC port lets in: tokens, certificates, roles, places."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from server.security import authority, tokens
from server.security.audit import AuditLog
from server.security.guard import Guard
from server.security.roles import ROLES
from server.security.tls import TlsFiles
from tests.support.http_site import HttpSite, curl, http_site, needs_curl
from tests.support.ruled_engine import ruled
from tests.support.running import until
from tests.support.stub_replica import STAMP

pytestmark = needs_curl

# What each role may ask for, and with what.
CHAT = '{"model":"trefoil","messages":[{"role":"user","content":"a"}]}'
PATHS: dict[str, tuple[str, ...]] = {
    "/v1/predict": ("-F", "text=a"),
    "/v1/generate": ("-F", "text=a"),
    "/v1/embeddings": ("-d", '{"model":"trefoil","input":"a"}'),
    "/v1/chat/completions": ("-d", CHAT),
    "/v2/models/trefoil/infer": (
        "-d",
        '{"inputs":[{"name":"text","datatype":"BYTES","shape":[1,1],"data":["a"]}]}',
    ),
    "/v1/models": (),
    "/v2": (),
    "/v2/models/trefoil/config": (),
    "/metrics": (),
}
PREDICTS = frozenset(list(PATHS)[:5])
OPEN = ("/livez", "/readyz", "/startupz", "/v2/health/live", "/v2/health/ready", "/")


@dataclass(frozen=True, slots=True)
class SecureSite:
    site: HttpSite
    pem: Path
    bearers: dict[str, str]

    def asked(self, path: str, *arguments: str) -> tuple[str, ...]:
        return ("--cacert", str(self.pem / "ca.pem"), *arguments, self.site.url + path)

    def shown(self, role: str) -> tuple[str, ...]:
        files = (self.pem / f"client-{role}.pem", self.pem / f"client-{role}.key")
        return ("--cert", str(files[0]), "--key", str(files[1]))


@asynccontextmanager
async def secure_site(folder: Path, mutual: bool = False) -> AsyncIterator[SecureSite]:
    pem = folder / "tls"
    authority.make(pem, ["localhost"], dt.datetime.now(dt.UTC))
    bearers: dict[str, str] = {role: tokens.add(folder / "tokens", role, role, 0) for role in ROLES}
    audit = AuditLog(folder / "audit.jsonl")
    guard = Guard(tokens.TokenFile(folder / "tokens"), audit, mutual)
    files = TlsFiles(pem / "server.pem", pem / "server.key", pem / "ca.pem" if mutual else None)
    async with ruled() as engine, http_site(engine, files, (guard,), host="localhost") as site:
        yield SecureSite(site, pem, bearers)
    audit.close()


def allowed(path: str, role: str) -> bool:
    if path == "/metrics":
        return role in ("observe", "observe-payloads", "admin")
    return path not in PREDICTS or role in ("predict", "admin")


async def test_every_path_obeys_the_table_for_every_role(tmp_path: Path) -> None:
    async with secure_site(tmp_path) as site:
        for path, arguments in PATHS.items():
            for role, bearer in site.bearers.items():
                header = ("-H", f"authorization: Bearer {bearer}")
                reply = await curl(*site.asked(path, *arguments, *header))
                assert reply.status == (200 if allowed(path, role) else 403), (path, role)
            reply = await curl(*site.asked(path, *arguments))
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer", path
        for path in OPEN:
            assert (await curl(*site.asked(path))).status == 200, path


async def test_the_page_shows_the_stamp_to_callers_with_a_role(tmp_path: Path) -> None:
    async with secure_site(tmp_path) as site:
        assert STAMP not in (await curl(*site.asked("/"))).body.decode()
        header = ("-H", f"authorization: Bearer {site.bearers['observe']}")
        assert STAMP in (await curl(*site.asked("/", *header))).body.decode()


async def test_a_client_certificate_carries_its_role(tmp_path: Path) -> None:
    async with secure_site(tmp_path, mutual=True) as site:
        path, arguments = "/v1/predict", PATHS["/v1/predict"]
        assert (await curl(*site.asked(path, *arguments, *site.shown("predict")))).status == 200
        assert (await curl(*site.asked(path, *arguments, *site.shown("observe")))).status == 403
        with pytest.raises(AssertionError, match=r"curl: \((52|56)\)"):
            await curl(*site.asked("/livez"))


async def test_a_refused_caller_sends_no_body(tmp_path: Path) -> None:
    """401 comes before the body is asked for."""
    large = tmp_path / "large.bin"
    large.write_bytes(b"\0" * 8_000_000)
    async with secure_site(tmp_path) as site:
        arguments = ("-H", "expect: 100-continue", "-F", f"image=@{large}", "-w", "%{size_upload}")
        reply = await curl(*site.asked("/v1/predict", *arguments))
        sent = int(reply.body.rpartition(b"}")[2])
        assert reply.status == 401 and sent < 1_000_000


async def test_a_rotated_certificate_is_used_without_a_restart(tmp_path: Path) -> None:
    async with secure_site(tmp_path) as site:
        assert (await curl(*site.asked("/livez"))).status == 200
        later = tmp_path / "later"
        authority.make(later, ["localhost"], dt.datetime.now(dt.UTC))
        for name in ("server.pem", "server.key"):
            os.replace(later / name, site.pem / name)
        with pytest.raises(AssertionError, match=r"curl: \((35|60)\)"):
            await curl(*site.asked("/livez"))
        (site.pem / "server.key").write_text("half-written")
        new = replace(site, pem=later)
        assert (await curl(*new.asked("/livez"))).status == 200, "the last good pair goes on"


async def test_places_of_calls_are_shared_with_grpc() -> None:
    async with ruled() as engine, http_site(engine, max_calls=2) as site:
        url = site.url + "/v1/predict"
        held = [asyncio.create_task(curl("-F", "text=wait", url)) for _ in range(2)]
        await until(lambda: site.listener.budget.open["predict"] == 2)
        await until(lambda: len(engine.received) == 2)
        reply = await curl("-F", "text=a", url)
        assert reply.status == 429 and reply.json()["reason"] == "TOO_MANY_CALLS"
        assert (await curl(site.url + "/readyz")).status == 200
        engine.gate.open()
        assert [(await one).status for one in held] == [200, 200]
        await until(lambda: site.listener.budget.open["predict"] == 0)
