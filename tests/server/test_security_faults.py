"""The server's access control when its files fail: disks, token files, floods."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto import admin_pb2, admin_pb2_grpc
from proto import observe_pb2 as pb
from proto import observe_pb2_grpc as stubs
from server.api.observe_requests import actor_of
from server.request.status import Refused
from server.request.worker_threads import WorkerThreads
from server.security import tokens
from server.security.audit import KEPT_FILES, MOST_SUMS, WAITING_LINES, AuditLog
from server.security.roles import ALLOWED, AUDITED
from server.security.tokens import CallerIdentity, TokenFile
from server.telemetry.alerts.book import MOST_SILENCES, MOST_STEPS, AlertBook
from server.telemetry.errors import TooMany
from server.telemetry.findings import Finding
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from tests.support.secure_listener import secure_listener

ROLLBACK = "/trefoil.v1.Admin/Rollback"
ADMIN = CallerIdentity("alice", "admin", "token")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def admit(log: AuditLog, count: int = 1) -> None:
    for _ in range(count):
        log.write(ROLLBACK, ADMIN, "ipv4:10.0.0.7:4711", denied=False)


def test_what_a_full_disk_refuses_waits_in_memory_and_is_written_later(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.symlink_to("/dev/full")
    log = AuditLog(file, lambda: 1.0)
    admit(log, 3)
    assert "No space left on device" in log.trouble
    file.unlink()
    log.settle()
    assert [line["who"] for line in lines(file)] == ["alice"] * 3 and not log.trouble
    log.close()


def test_what_waits_in_memory_is_bounded_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.symlink_to("/dev/full")
    log = AuditLog(file, lambda: 1.0)
    admit(log, WAITING_LINES + 50)
    file.unlink()
    log.settle()
    found = lines(file)
    assert found[0]["lost_lines"] == 50 and len(found) == WAITING_LINES + 1
    log.close()


@pytest.mark.parametrize("way", ["removed", "moved", "folder"])
def test_a_file_that_is_gone_is_made_again(tmp_path: Path, way: str) -> None:
    file = tmp_path / "data" / "audit.jsonl"
    log = AuditLog(file, lambda: 1.0)
    admit(log)
    if way == "moved":
        file.rename(tmp_path / "old")
    else:
        file.unlink()
        if way == "folder":
            file.parent.rmdir()
    admit(log)
    assert len(lines(file)) == 1 and not log.trouble
    assert file.stat().st_mode & 0o777 == 0o600
    log.close()


def test_files_rotate_and_the_oldest_goes(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file, lambda: 1.0, most_bytes=1000)
    admit(log, 100)
    log.close()
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["audit.jsonl", *(f"audit.jsonl.{n}" for n in range(1, KEPT_FILES + 1))]
    assert all(path.stat().st_size < 1200 for path in tmp_path.iterdir())
    assert all(len(lines(path)) > 0 for path in tmp_path.iterdir())


def test_a_flood_of_denials_is_two_lines_a_minute(tmp_path: Path) -> None:
    file, clock = tmp_path / "audit.jsonl", Clock()
    log = AuditLog(file, lambda: 1.0, clock=clock)
    for number in range(5000):
        log.write(ROLLBACK, None, f"ipv4:10.0.0.7:{number}", denied=True)
        admit(log, number == 4000)
    clock.now = 61.0
    log.settle()
    found = lines(file)
    assert [line.get("times") for line in found] == [None, None, 4999]
    assert [line["who"] for line in found] == ["", "alice", ""]
    log.close()


def test_denials_of_many_kinds_share_a_line(tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    log = AuditLog(file, lambda: 1.0, clock=Clock())
    for number in range(3000):
        log.write(ROLLBACK, None, f"ipv4:10.0.{number >> 8}.{number & 255}:1", denied=True)
    log.close()
    found = lines(file)
    assert len(found) == MOST_SUMS + 1
    assert (found[-1]["times"], found[-1]["peer"]) == (3000 - MOST_SUMS, "")


def test_a_log_that_cannot_be_opened_does_not_stop_the_server(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = AuditLog(tmp_path / "file" / "audit.jsonl", lambda: 1.0)
    admit(log)
    assert "cannot be written" in log.trouble
    log.close()


def test_what_people_do_to_alerts_is_audited() -> None:
    for name in ("Acknowledge", "Silence"):
        assert f"/trefoil.v1.Observe/{name}" in AUDITED & ALLOWED.keys()


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[]",
        b'{"name": "a", "role": "root", "sha256": "", "expires_unix_s": 0}',
        b'{"name": "a", "role": "admin", "sha256": 7, "expires_unix_s": 0}',
        b'{"name": "a", "role": "admin", "sha256": "\xc3\xa9", "expires_unix_s": 0}',
        None,
    ],
)
def test_a_broken_token_file_leaves_the_last_good_tokens(
    tmp_path: Path, broken: bytes | None
) -> None:
    file = tmp_path / "tokens"
    bearer = tokens.add(file, "alice", "admin", 0)
    good = file.read_bytes()
    held = TokenFile(file)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(good + broken + b"\n")
    identity = held.identity(bearer)
    assert identity is not None and identity.name == "alice"
    assert held.identity("trefoil_wrong") is None and str(file) in held.trouble
    file.write_bytes(good)
    held.look()
    assert not held.trouble and held.identity(bearer) == identity


async def test_a_stranger_learns_nothing_of_a_broken_token_file(tmp_path: Path) -> None:
    async with secure_listener(tmp_path) as site:
        with (tmp_path / "tokens").open("a") as file:
            file.write("{broken\n")
        roots = (site.pem / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots)
        async with grpc.aio.secure_channel(site.address, credentials) as channel:
            watch = channel.unary_unary("/trefoil.v1.Observe/Verify")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch(b"", metadata=(("authorization", "Bearer trefoil_wrong"),))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert "line" not in str(caught.value) and str(tmp_path) not in str(caught.value)
            good = (("authorization", f"Bearer {site.bearers['observe']}"),)
            assert await watch(b"", metadata=good)


async def test_the_actor_is_the_name_in_the_credential(tmp_path: Path) -> None:
    telemetry = Telemetry(TelemetrySettings(tmp_path / "data"))
    try:
        async with secure_listener(tmp_path, telemetry=telemetry) as site:
            roots = (site.pem / "ca.pem").read_bytes()
            async with grpc.aio.secure_channel(
                site.address, grpc.ssl_channel_credentials(roots)
            ) as channel:
                metadata = (("authorization", f"Bearer {site.bearers['observe']}"),)
                until_ms = int((time.time() + 3600) * 1000)
                asked = pb.SilenceRequest(
                    matcher="kind=drift", until_unix_ms=until_ms, actor="root"
                )
                made = await stubs.ObserveStub(channel).Silence(asked, metadata=metadata)
    finally:
        telemetry.close()
    assert made.silence.actor == "observe"
    (line,) = lines(tmp_path / "audit.jsonl")
    assert (line["who"], line["method"]) == ("observe", "/trefoil.v1.Observe/Silence")


def test_without_credentials_the_request_names_the_actor() -> None:
    assert actor_of("alice", "root", "c") == "alice"
    assert (actor_of("", "root", "c"), actor_of("", "", "c")) == ("root", "c")


async def test_silences_and_the_history_of_an_alert_are_limited() -> None:
    book = AlertBook(lambda transition: None)
    for number in range(MOST_SILENCES):
        book.silence(f"slice=a{number}", 100.0, "alice", "", 1.0)
    with pytest.raises(TooMany, match=f"there are {MOST_SILENCES} silences"):
        book.silence("slice=b", 100.0, "alice", "", 1.0)
    book.update([Finding("k", "drift", "high", "s")], 2000.0)
    (row,) = book.rows()
    for number in range(10 * MOST_STEPS):
        row = book.acknowledge(row.id, "alice", str(number), 2001.0)
    assert len(row.history) == MOST_STEPS and row.history[0].from_state == "ok"

    def work() -> None:
        raise TooMany("there are enough")

    with pytest.raises(Refused) as caught:
        await WorkerThreads("test", 1, 1).run(work)
    assert caught.value.faults[0].code == "RESOURCE_EXHAUSTED"


async def test_an_admin_drains_a_server_whose_disk_is_full(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    async with secure_listener(tmp_path) as site:
        credentials = grpc.ssl_channel_credentials((site.pem / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(site.address, credentials) as channel:
            admin = admin_pb2_grpc.AdminStub(channel)
            metadata = (("authorization", f"Bearer {site.bearers['admin']}"),)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await admin.Rollback(admin_pb2.RollbackRequest(), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION  # nothing to go to
            drain = admin.Drain(admin_pb2.DrainRequest(grace_s=1), metadata=metadata)
            assert [step async for step in drain][-1].done
