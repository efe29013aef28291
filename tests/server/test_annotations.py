"""People's notes on the time axis: kept, watched, removed, limited, audited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import observe_pb2 as pb
from proto.observe_pb2_grpc import ObserveStub
from server.security.roles import ALLOWED, AUDITED, OBSERVE
from server.telemetry.annotations import MOST_ANNOTATIONS
from server.telemetry.rows import AnnotationRow
from server.telemetry.settings import TelemetrySettings
from server.telemetry.telemetry import Telemetry
from tests.server.test_observe import NOW_MS, history, observed, refused
from tests.server.test_observe import telemetry as telemetry
from tests.support.secure_listener import secure_listener
from tests.support.telemetry_bench import Clock

ID = "ab" * 16


def asked(**more: object) -> pb.AnnotateRequest:
    values = {"id": ID, "at_unix_ms": NOW_MS - 60_000, "text": "lamp changed", "actor": "kim"}
    return pb.AnnotateRequest(**{**values, **more})  # type: ignore[arg-type]


async def test_a_note_is_kept_watched_and_taken_back(telemetry: Telemetry) -> None:
    async with observed(telemetry) as stub:
        made = await stub.Annotate(asked(to_unix_ms=NOW_MS))
        again = await stub.Annotate(asked(text="sent twice"))
        seen = [event.annotation for event in await history(stub) if event.annotation.id]
        gone = await stub.Annotate(pb.AnnotateRequest(id=ID, remove=True, actor="lee"))
        unknown = await refused(stub.Annotate(pb.AnnotateRequest(id="cd" * 16, remove=True)))
        shown = telemetry.changes(0).changes
    assert (made.text, made.actor, made.made_unix_ms) == ("lamp changed", "kim", NOW_MS)
    assert (made.at_unix_ms, made.to_unix_ms) == (NOW_MS - 60_000, NOW_MS)
    assert again == made and seen == [made], "the same id is the same note"
    assert (gone.removed, gone.actor, gone.text) == (True, "lee", "lamp changed")
    assert unknown[0] == "NOT_FOUND"
    rows = [change.row for change in shown if isinstance(change.row, AnnotationRow)]
    assert [row.removed for row in rows] == [True], "who watches sees it go"


def test_notes_outlive_the_server(tmp_path: Path) -> None:
    for number in (0, 1):
        held = Telemetry(TelemetrySettings(tmp_path), Clock(), Clock(0.0))
        if not number:
            held.annotate(AnnotationRow(ID, NOW_MS, NOW_MS, "lamp changed", "kim", 0))
        rows = [c.row for c in held.changes(0).changes if isinstance(c.row, AnnotationRow)]
        assert [(row.id, row.text) for row in rows] == [(ID, "lamp changed")]
        held.close()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"id": "short"}, "id"),
        ({"id": "X" * 32}, "id"),
        ({"text": "  "}, "text"),
        ({"text": "x" * 501}, "text"),
        ({"at_unix_ms": 0}, "at_unix_ms"),
        ({"at_unix_ms": NOW_MS // 1000}, "at_unix_ms"),
        ({"at_unix_ms": NOW_MS + 2 * 86_400_000}, "at_unix_ms"),
        ({"to_unix_ms": NOW_MS - 120_000}, "to_unix_ms"),
        ({"to_unix_ms": NOW_MS + 91 * 86_400_000}, "to_unix_ms"),
    ],
)
async def test_what_is_no_note_is_refused_by_its_field(
    telemetry: Telemetry, more: dict[str, object], field: str
) -> None:
    async with observed(telemetry) as stub:
        code, text = await refused(stub.Annotate(asked(**more)))
    assert code == "INVALID_ARGUMENT" and text.startswith(field)


async def test_there_are_so_many_and_old_ones_make_room(telemetry: Telemetry) -> None:
    old = NOW_MS - 3 * 365 * 86_400_000
    for number in range(MOST_ANNOTATIONS):
        at = old if number < 2 else NOW_MS
        telemetry.annotate(AnnotationRow(f"{number:032x}", at, at, "x", "kim", 0))
    async with observed(telemetry) as stub:
        for number in range(2):
            await stub.Annotate(asked(id=f"{number + 5000:032x}"))
        code, text = await refused(stub.Annotate(asked()))
    assert code == "RESOURCE_EXHAUSTED" and f"{MOST_ANNOTATIONS} annotations" in text


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Telemetry]:
    held = Telemetry(TelemetrySettings(tmp_path / "data"), Clock(), Clock(0.0))
    yield held
    held.close()


async def test_the_role_observe_may_and_it_is_audited(tmp_path: Path, kept: Telemetry) -> None:
    method = "/trefoil.v1.Observe/Annotate"
    assert ALLOWED[method] == OBSERVE and method in AUDITED
    async with secure_listener(tmp_path, telemetry=kept) as site:
        roots = grpc.ssl_channel_credentials((site.pem / "ca.pem").read_bytes())
        async with grpc.aio.secure_channel(site.address, roots) as channel:
            stub = ObserveStub(channel)
            for role in ("observe", "predict"):
                header = (("authorization", f"Bearer {site.bearers[role]}"),)
                call = stub.Annotate(asked(actor="another name"), metadata=header)
                if role == "observe":
                    assert (await call).actor == "observe", "the credential's name counts"
                else:
                    assert (await refused(call))[0] == "PERMISSION_DENIED"
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    found = [(line["who"], line["denied"]) for line in lines if line["method"] == method]
    assert found == [("observe", False), ("predict", True)]
