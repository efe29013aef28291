"""The HTTP port as curl and hostile callers find it, around an engine that answers by rules."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from proto import inference_pb2 as pb
from server.http.connection import HEAD_BYTES
from server.http.limits import HttpTimes
from tests.support.http_site import curl, http_site, needs_curl, reply_of, sent
from tests.support.patience import patience
from tests.support.ruled_engine import ruled
from tests.support.ruled_replica import LABELS
from tests.support.running import idle_engine, until
from tests.support.stub_replica import STAMP

pytestmark = needs_curl


async def test_probes_show_the_state_of_the_engine() -> None:
    async with ruled(hold_load=True) as engine, http_site(engine) as site:
        paths = ("/livez", "/readyz", "/startupz", "/v2/health/live", "/v2/health/ready")
        expected = {"STARTING": [200, 503, 503, 200, 503], "READY": [200] * 5}
        expected["DRAINING"] = [200, 503, 200, 200, 503]
        brought: dict[str, Callable[[], object]]
        brought = {"READY": engine.gate.open, "DRAINING": engine.leave}
        for state, statuses in expected.items():
            brought.get(state, lambda: None)()
            await until(lambda state=state: engine.snapshot().state == state)  # type: ignore[misc]
            found = [(await curl(site.url + path)).status for path in paths]
            assert found == statuses, state
        health = await curl(site.url + "/v2/health/ready")
        assert health.json() == {"ready": False}
        model = await curl(site.url + "/v2/models/triage/ready")
        assert (model.status, model.json()) == (503, {"name": "triage", "ready": False})
        assert b"draining: leaving" in (await curl(site.url + "/readyz")).body


async def test_a_form_is_answered_as_the_command_line_prints_it(tmp_path: Path) -> None:
    picture = tmp_path / "station.jpg"
    picture.write_bytes(b"\xff\xd8\xff\r\n--not-a-boundary\r\n" * 40_000)
    async with ruled() as engine, http_site(engine) as site:
        form = ("text=first", f"image=@{picture}", "text=then", "slice=site=b", "embed=true")
        arguments = [word for field in form for word in ("-F", field)]
        reply = await curl(*arguments, site.url + "/v1/predict")
    found = reply.json()
    assert reply.status == 200 and found["label"] == LABELS[0] and len(found["embedding"]) == 4
    assert found["stamp"] == reply.headers["trefoil-stamp"] == STAMP
    assert found["prediction_id"] == reply.headers["trefoil-prediction-id"]
    forward = re.search(r"forward;dur=([0-9.]+)", reply.headers["server-timing"])
    assert forward is not None and float(forward[1]) > 0
    (work,) = engine.received
    assert work.mix == "image+text" and work.slices == {"site": "b"} and work.want_embedding
    parts = pb.Example.FromString(work.example).parts
    assert [part.text or part.id for part in parts] == ["first", "station.jpg", "then"]
    assert parts[1].data == picture.read_bytes()


async def test_generate_answers_with_the_text() -> None:
    async with ruled() as engine, http_site(engine) as site:
        reply = await curl("-F", "text=a", site.url + "/v1/generate")
    assert reply.json()["text"] == "smoke near the drive"
    assert reply.json()["stamp"] == STAMP


@pytest.mark.parametrize(
    ("arguments", "status", "field", "reason"),
    [
        (("-F", "foo=1"), 400, "foo", "UNKNOWN_FIELD"),
        (("-F", "label=a"), 400, "", "EMPTY"),
        (("-F", "text=a", "-F", "priority=soon"), 400, "priority", "UNKNOWN_CHOICE"),
        (("-F", "text=a", "-F", "top_k=9999999999999"), 400, "top_k", "NOT_A_NUMBER"),
        (("-F", "text=a", "-F", "slice=b"), 400, "slice", "SLICE_MALFORMED"),
        (("-d", "text=a"), 415, "", "NOT_A_FORM"),
        (("-F", "text=a", "-H", "content-encoding: gzip"), 415, "", "CONTENT_ENCODING"),
        (("-F", "text=a", "-H", "trefoil-deadline-ms: soon"), 400, "trefoil-deadline-ms", ""),
        (("-F", "text=INVALID_ARGUMENT BLANK"), 400, "parts[0].text", "BLANK"),
        (("-F", "text=RESOURCE_EXHAUSTED FULL"), 429, "", "FULL"),
        (("-F", "text=UNAVAILABLE GONE"), 503, "", "GONE"),
        (("-F", f"text={'x' * 70_000}"), 400, "parts[0].text", "TEXT_TOO_LONG"),
    ],
)
async def test_a_refusal_is_a_problem_with_field_and_reason(
    arguments: tuple[str, ...], status: int, field: str, reason: str
) -> None:
    async with ruled() as engine, http_site(engine) as site:
        reply = await curl(*arguments, site.url + "/v1/predict")
    found = reply.json()
    assert (reply.status, found["status"], found["field"]) == (status, status, field)
    assert reply.headers["content-type"] == "application/problem+json"
    assert found["reason"].startswith(reason) and found["detail"]
    if status == 429:
        assert reply.headers["retry-after"] == "1" and found["retry_after_s"] == 1.0


async def test_a_pinned_stamp_that_is_not_served_is_a_failed_precondition() -> None:
    async with ruled() as engine, http_site(engine) as site:
        arguments = ("-F", "text=a", "-F", f"expected_stamp={'cd' * 32}")
        reply = await curl(*arguments, site.url + "/v1/predict")
    assert reply.status == 412 and reply.headers["trefoil-stamp"] == STAMP


async def test_what_is_not_served_answers_in_the_form_of_its_protocol() -> None:
    async with ruled() as engine, http_site(engine) as site:
        openai = await curl("-d", "{}", site.url + "/v1/completions")
        assert openai.status == 404 and openai.json()["error"]["type"] == "invalid_request_error"
        triton = await curl(site.url + "/v2/models/trefoil/generate_stream")
        assert triton.status == 404 and isinstance(triton.json()["error"], str)
        plain = await curl(site.url + "/favicon.ico")
        assert plain.status == 404 and plain.json()["reason"] == "UNKNOWN_PATH"
        wrong = await curl(site.url + "/v1/predict")
        assert wrong.status == 405 and "POST" in wrong.json()["detail"]


async def test_a_form_before_a_replica_has_loaded_is_asked_to_retry() -> None:
    async with http_site(idle_engine()) as site:
        reply = await curl("-d", '{"model":"trefoil","input":"a"}', site.url + "/v1/embeddings")
    assert reply.status == 503 and reply.headers["retry-after"] == "1"
    assert reply.json()["error"]["type"] == "server_error"


async def test_the_page_says_what_this_is_in_twenty_lines() -> None:
    async with ruled() as engine, http_site(engine) as site:
        reply = await curl(site.url + "/")
    text = reply.body.decode()
    assert STAMP in text and "READY" in text and f"console {site.listener.address}" in text
    assert len(text.splitlines()) <= 20 and "<script" not in text


async def test_metrics_are_scraped_here_too() -> None:
    async with ruled() as engine, http_site(engine) as site:
        reply = await curl(site.url + "/metrics")
    assert reply.status == 200 and b"process_cpu_seconds_total" in reply.body


async def test_a_body_that_announces_too_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(b"\0" * 3_000_000)
    async with ruled() as engine, http_site(engine, max_message_bytes=1 << 20) as site:
        reply = await curl("-F", f"image=@{large}", site.url + "/v1/predict")
        assert reply.status == 413 and "--max-message-mb" in reply.json()["detail"]
        head = b"POST /v1/predict HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n"
        out = await sent(site.port, head + b"content-length: 99999999\r\n\r\n", end=False)
        assert out.startswith(b"HTTP/1.1 413"), "not asked to continue"


async def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large() -> None:
    chunk = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    async with ruled() as engine, http_site(engine, max_message_bytes=1 << 20) as site:
        out = await sent(site.port, head + chunk * 40 + b"0\r\n\r\n", end=False)
    assert reply_of(out).status == 413


async def test_bodies_share_one_bound() -> None:
    """A body that is held while another arrives: the second has no room, then it has."""
    large = b"x" * 700_000
    async with ruled() as engine, http_site(engine, queue_bytes=1 << 20) as site:
        url = site.url + "/v1/predict"
        form = ("-F", "text=wait", "-F", "image=@-", url)
        first = asyncio.create_task(curl(*form, data=large))
        await until(lambda: engine.received)
        second = await curl("-F", "image=@-", url, data=large)
        assert second.status == 503 and second.json()["reason"] == "TOO_MANY_BYTES"
        engine.gate.open()
        assert (await first).status == 200
        assert (await curl("-F", "image=@-", url, data=large)).status == 200


async def test_a_caller_who_goes_away_takes_the_row_along() -> None:
    async with ruled() as engine, http_site(engine) as site:
        body = form_of("wait")
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(body)
        await until(lambda: engine.at_work)
        writer.close()
        await until(lambda: engine.counters.cancelled == 1)
        assert len(engine.received) == 1
        engine.gate.open()
        await until(lambda: not engine.at_work)
        assert site.listener.budget.open["predict"] == 0
        await until(lambda: site.http.limit.open == 0)


async def test_a_caller_who_goes_away_ends_a_stream_of_text() -> None:
    body = {"model": "trefoil", "stream": True, "messages": []}
    body["messages"] = [{"role": "user", "content": "endless"}]
    data = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n"
    head += b"content-length: %d\r\n\r\n" % len(data)
    async with ruled() as engine, http_site(engine) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(head + data)
        assert b"smoke" in await reader.readuntil(b"drive")
        writer.close()
        await until(lambda: engine.counters.cancelled == 1)
        await until(lambda: not engine.at_work)


async def test_connections_of_one_host_are_limited() -> None:
    async with ruled() as engine, http_site(engine, max_http_connections_peer=3) as site:
        held = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
        await until(lambda: site.http.limit.open == 3)
        out = await sent(site.port, b"", end=False)
        assert reply_of(out).status == 503 and b"--max-http-connections-peer" in out
        held[0][1].close()
        await until(lambda: site.http.limit.open == 2)
        assert (await curl(site.url + "/livez")).status == 200
        for _, writer in held:
            writer.close()
        assert site.http.limit.refused == 1


async def test_a_head_that_does_not_end_is_refused() -> None:
    async with ruled() as engine, http_site(engine) as site:
        endless = b"GET /livez HTTP/1.1\r\nx: " + b"a" * (2 * HEAD_BYTES)
        assert reply_of(await sent(site.port, endless, end=False)).status == 431
    async with ruled() as engine, http_site(engine, times=HttpTimes(head_s=0.1)) as site:
        assert reply_of(await sent(site.port, b"GET /livez HT", end=False)).status == 408
        again = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /li"
        out = await sent(site.port, again, end=False)
        assert out.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in out


async def test_a_connection_without_a_request_is_closed() -> None:
    async with ruled() as engine, http_site(engine, times=HttpTimes(head_s=0.1)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        await asyncio.sleep(0.3)  # opened ahead: longer than a head may take
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    async with ruled() as engine, http_site(engine, times=HttpTimes(idle_s=0.1)) as site:
        assert await sent(site.port, b"", end=False) == b""


async def test_a_body_that_stops_is_given_up() -> None:
    times = HttpTimes(body_idle_s=0.1, discard_s=0.1)
    async with ruled() as engine, http_site(engine, times=times) as site:
        out = await sent(site.port, form_of("a")[:-20], end=False)
        assert reply_of(out).status == 408
        assert site.listener.budget.open["predict"] == 0


@pytest.mark.parametrize("nonsense", [b"\0" * 64, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" * 9])
async def test_nonsense_is_refused_and_the_next_caller_served(nonsense: bytes) -> None:
    async with ruled() as engine, http_site(engine) as site:
        assert (await sent(site.port, nonsense + b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert (await curl(site.url + "/livez")).status == 200


async def test_the_end_lets_an_answer_out_and_takes_no_one_in() -> None:
    async with ruled() as engine, http_site(engine) as site:
        call = asyncio.create_task(curl("-F", "text=wait", site.url + "/v1/predict"))
        await until(lambda: engine.received)
        ending = asyncio.create_task(site.http.stop(patience(20)))
        await until(lambda: not site.http.listening)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", site.port)
        engine.gate.open()
        assert (await call).status == 200
        await ending


def form_of(text: str) -> bytes:
    """One request with a form of one text, as bytes of HTTP."""
    part = b'--b\r\ncontent-disposition: form-data; name="text"\r\n\r\n'
    part += text.encode() + b"\r\n--b--\r\n"
    head = b"POST /v1/predict HTTP/1.1\r\nhost: a\r\n"
    head += b"content-type: multipart/form-data; boundary=b\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(part) + part
