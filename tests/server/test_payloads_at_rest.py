"""Kept payloads: encrypted in the file, readable only with the right key and the right role."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from console.feed.hub import Hub
from console.state.access import ConnectionAccess
from proto import observe_pb2 as pb
from proto.observe_pb2_grpc import ObserveStub
from server.api.listen_address import CannotListen
from server.commands.replay import NoPayload, from_data
from server.config import ServerConfig
from server.ops.access_control import check_payload_key
from server.telemetry.settings import TelemetrySettings
from server.telemetry.store import payload_keys
from server.telemetry.store.database import NAME
from server.telemetry.store.payload_keys import (
    NO_KEYS,
    KeyFileInvalid,
    PayloadKey,
    PayloadKeys,
    PayloadLocked,
)
from server.telemetry.telemetry import Telemetry
from tests.support.kept_rows import Kept, until
from tests.support.secure_listener import SecureSite, secure_listener
from tests.support.telemetry_bench import SCHEMA, Clock, bundle, record

SECRET = b"\x0a\x0bwhat a caller sent" * 40  # begins as a serialized Example does
OLD, NEW = (PayloadKeys((PayloadKey.of(bytes([n]) * 32),)) for n in (1, 2))
BOTH = PayloadKeys((*NEW.keys, *OLD.keys))
ID = record(0).prediction_id


def key_file(folder: Path, *keys: PayloadKeys, mode: int = 0o600) -> Path:
    path = folder / "payload.keys"
    path.write_text("# newest first\n" + "".join(f"{k.keys[0].secret.hex()}\n" for k in keys))
    path.chmod(mode)
    return path


@contextmanager
def telemetry(folder: Path, keys: PayloadKeys = NO_KEYS) -> Iterator[Telemetry]:
    settings = TelemetrySettings(folder, sample_share=1.0, payload_keys=keys)
    held = Telemetry(settings, Clock(), Clock(0.0))
    try:
        held.adopt(bundle(rows=600))
        yield held
    finally:
        held.close()


def put(held: Telemetry, number: int = 0) -> str:
    made = replace(record(number), payload=SECRET)
    held.put(made, SCHEMA)
    held.alerts()  # answered after everything put before
    return made.prediction_id


def stored(folder: Path) -> list[bytes]:
    like = "SELECT name FROM sqlite_master WHERE name LIKE 'payload\\_%' ESCAPE '\\'"
    with closing(sqlite3.connect(folder / NAME)) as db:
        tables = [name for (name,) in db.execute(like)]
        return [row[0] for table in tables for row in db.execute(f"SELECT example FROM {table}")]


def test_payloads_are_in_no_file_in_plain_and_come_back_with_their_key(tmp_path: Path) -> None:
    with telemetry(tmp_path, OLD) as held:
        identity = put(held)
        (row,) = held.by_id([identity], True)
        assert (row.example, row.locked) == (SECRET, "")
    assert stored(tmp_path)[0].startswith(payload_keys.MAGIC + OLD.keys[0].id)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(b"what a caller sent" in path.read_bytes() for path in files)


def test_a_rotated_key_reads_what_the_old_one_wrote_and_writes_with_the_new_one(
    tmp_path: Path,
) -> None:
    with telemetry(tmp_path) as held:  # before there was any key
        first = put(held, 0)
    with telemetry(tmp_path, OLD) as held:
        second = put(held, 1)
    with telemetry(tmp_path, BOTH) as held:
        third = put(held, 2)
        rows = held.by_id([first, second, third], True)
        assert [row.example for row in rows] == [SECRET] * 3
    heads = {
        blob[4:12] if blob.startswith(payload_keys.MAGIC) else b"" for blob in stored(tmp_path)
    }
    assert heads == {b"", OLD.keys[0].id, NEW.keys[0].id}
    with telemetry(tmp_path, NEW) as held:  # the old one was taken out too early
        rows = held.by_id([first, second, third], True)
    assert [bool(row.example) for row in rows] == [True, False, True]
    assert OLD.keys[0].id.hex() in rows[1].locked and "--payload-key" in rows[1].locked


def test_without_the_key_replay_says_so_and_with_it_the_payload_is_there(tmp_path: Path) -> None:
    with telemetry(tmp_path, OLD) as held:
        identity = put(held)
    with pytest.raises(NoPayload, match="encrypted with key .* --payload-key FILE"):
        from_data(tmp_path, identity)
    assert from_data(tmp_path, identity, OLD).example == SECRET


def test_a_payload_that_was_changed_or_moved_does_not_decrypt() -> None:
    sealed = OLD.seal("a", SECRET)
    assert OLD.open("a", sealed) == SECRET and OLD.seal("a", SECRET) != sealed
    for identity, blob in (
        ("b", sealed),
        ("a", sealed[:-1]),
        ("a", sealed[:20]),
        ("a", sealed[:30] + bytes([sealed[30] ^ 1]) + sealed[31:]),
    ):
        with pytest.raises(PayloadLocked, match="was changed"):
            OLD.open(identity, blob)
    assert PayloadKeys().open("a", SECRET) == SECRET


def test_a_key_file_that_others_may_read_or_that_is_none_stops_the_start(tmp_path: Path) -> None:
    good = key_file(tmp_path, NEW, OLD)
    assert payload_keys.read(good) == BOTH
    check_payload_key(ServerConfig(payload_key=good))
    with pytest.raises(CannotListen, match="--payload-key: .*chmod 600"):
        check_payload_key(ServerConfig(payload_key=key_file(tmp_path, NEW, mode=0o640)))
    with pytest.raises(CannotListen, match="--payload-key: .*No such file"):
        check_payload_key(ServerConfig(payload_key=tmp_path / "absent"))
    for text in ("", "# only a comment\n", "secret\n", "ab" * 31 + "\n"):
        good.write_text(text)
        good.chmod(0o600)
        with pytest.raises(KeyFileInvalid) as caught:
            payload_keys.read(good)
        assert "secret" not in str(caught.value), "what is nearly a key is not repeated"
    assert "0202" not in repr(NEW)


# ---- who may read them ---------------------------------------------------------------------------


async def samples(site: SecureSite, role: str) -> pb.SamplesResponse:
    credentials = grpc.ssl_channel_credentials((site.pem / "ca.pem").read_bytes())
    metadata = (("authorization", f"Bearer {site.bearers[role]}"),)
    async with grpc.aio.secure_channel(site.address, credentials) as channel:
        request = pb.SamplesRequest(prediction_ids=[ID], with_payload=True)
        found: pb.SamplesResponse = await ObserveStub(channel).Samples(request, metadata=metadata)
        return found


async def test_the_role_observe_reads_rows_and_no_payloads(tmp_path: Path) -> None:
    with telemetry(tmp_path / "data", OLD) as held:
        put(held)
        async with secure_listener(tmp_path, telemetry=held) as site:
            (refused,) = (await samples(site, "observe")).samples
            assert refused.row.prediction_id == ID and refused.row.payload_kept
            assert (refused.example, "observe-payloads" in refused.no_example) == (b"", True)
            for role in ("observe-payloads", "admin"):
                (sample,) = (await samples(site, role)).samples
                assert (sample.example, sample.no_example) == (SECRET, "")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await samples(site, "predict")
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_console_says_that_its_role_may_not_read_payloads(tmp_path: Path) -> None:
    """What `done` gets is what the prediction's detail shows."""
    with telemetry(tmp_path / "data") as held:
        put(held)
        async with secure_listener(tmp_path, telemetry=held) as site:
            token = tmp_path / "console.token"
            token.write_text(site.bearers["observe"])
            access = ConnectionAccess(tls=True, ca=site.pem / "ca.pem", token_file=token)
            hub, got = Hub([site.address], access, Kept(), lambda: None), []
            hub.start()
            try:
                await asyncio.to_thread(until, lambda: bool(hub.links()))
                await asyncio.to_thread(until, lambda: hub.links()[site.address].state == "live")
                hub.fetch(site.address, ID, lambda body, why: got.append((body, why)))
                await asyncio.to_thread(until, lambda: bool(got))
            finally:
                await asyncio.to_thread(hub.close)
    assert got[0][0] is None and "your role may not read payloads" in got[0][1]
