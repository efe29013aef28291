"""The Python client against the whole program: every call it has, blocking and not, and TLS."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from tests.support import media_bytes as made
from tests.support.ruled_engine import ruled
from tests.support.secure_listener import secure_listener
from trefoil import (
    Access,
    AsyncClient,
    Client,
    InputRefused,
    NotAllowed,
    Unavailable,
    audio,
    image,
    text,
)


def test_a_mixed_request_is_answered_by_the_whole_program(tiny_server: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(made.image("JPEG"))
    parts = (text("knocking"), image(photo), audio(made.sound()), text("since noon"))
    with Client(tiny_server, caller="press-7") as client:
        found = client.predict(*parts, embedding=True, session="s", slices={"site": "a"})
        served = client.served()
        pinned = client.predict(*parts, stamps=found.stamp)
        with pytest.raises(InputRefused) as caught:
            client.predict(text("knocking"), image(b"\xff\xd8\xff no picture"))
    assert found.label == max(found.scores, key=lambda label: found.scores[label])
    assert served == {tiny_server: found.stamp}
    assert pinned.stamp == found.stamp
    assert sum(value**2 for value in found.embedding) == pytest.approx(1.0, abs=1e-4)
    assert caught.value.field == "examples[0].parts[1].data"


def test_a_text_can_be_read_piece_by_piece_or_whole(tiny_server: str) -> None:
    with Client(tiny_server, max_new_tokens=6) as client:
        reading = client.generate(text("hum"))
        pieces = list(reading)
        whole = client.generate(text("hum")).read_all()
        for _ in client.generate(text("hum")):
            break  # one that has seen enough may leave
    assert reading.result is not None and "".join(pieces) == reading.result.text == whole.text
    assert 1 <= whole.tokens <= 6 and whole.finish_reason in ("stop", "length")


def test_a_client_may_be_used_from_several_threads(tiny_server: str) -> None:
    labels: list[str] = []
    with Client(tiny_server) as client:
        threads = [
            threading.Thread(target=lambda: labels.append(client.predict(text("hum")).label))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(labels) == 8 and len(set(labels)) == 1


class LosesAnswers(stubs.InferenceServicer):
    """Passes feedback on to a server and loses its first answer, as a broken connection would."""

    def __init__(self, target: str) -> None:
        self._stub = stubs.InferenceStub(grpc.aio.insecure_channel(target))
        self.statuses: list[str] = []

    async def Feedback(
        self, request: pb.FeedbackRequest, context: grpc.aio.ServicerContext
    ) -> pb.FeedbackResponse:
        response: pb.FeedbackResponse = await self._stub.Feedback(request)
        self.statuses.append(response.results[0].status)
        if len(self.statuses) == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the line went dead")
        return response


async def test_feedback_whose_answer_was_lost_counts_once(tiny_server: str) -> None:
    lossy = LosesAnswers(tiny_server)
    server = grpc.aio.server()
    stubs.add_InferenceServicer_to_server(lossy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(tiny_server) as client:
        found = await client.predict(text("hum"))
        async with AsyncClient(f"127.0.0.1:{port}") as unlucky:
            report = await unlucky.feedback(found.id, label="watch", source="inspection")
        again = await client.feedback(found, label="watch")
        nobodys = await client.feedback("00" * 16, label="watch")
        with pytest.raises(InputRefused) as caught:
            await client.feedback(found, label="watch", observed_unix_ms=5)
    await server.stop(None)
    assert (lossy.statuses, report.status) == (["joined", "duplicate"], "duplicate")
    assert (again.server, nobodys.status) == (tiny_server, "unknown")
    assert caught.value.reason == "NOT_A_TIME"


async def label(address: str, access: Access | None, balance: str = "rendezvous") -> str:
    async with AsyncClient(address, access, balance=balance, timeout_s=20) as client:
        return (await client.predict(text("hum"))).label


async def test_tls_and_a_token_let_the_caller_in(tmp_path: Path) -> None:
    async with ruled() as engine, secure_listener(tmp_path, engine=engine) as site:
        ca, bearers = site.pem / "ca.pem", site.bearers
        numeric = "127.0.0.1:" + site.address.rpartition(":")[2]
        good = Access(ca, token=bearers["predict"])
        assert await label(site.address, good) == "ok"
        named = Access(ca, token=bearers["predict"], name="localhost")
        assert await label(numeric, named, "ring_hash") == "ok"
        with pytest.raises(NotAllowed):
            await label(site.address, Access(ca, token="trefoil_wrong"))
        with pytest.raises(NotAllowed):
            await label(site.address, Access(ca, token=bearers["observe"]))
        with pytest.raises(Unavailable):
            await label(site.address, None)
        with pytest.raises(ValueError, match="name"):
            await label(numeric, good, "ring_hash")


async def test_a_certificate_lets_the_caller_in(tmp_path: Path) -> None:
    async with ruled() as engine, secure_listener(tmp_path, mutual=True, engine=engine) as site:
        pem = site.pem
        good = Access(pem / "ca.pem", pem / "client-predict.pem", pem / "client-predict.key")
        assert await label(site.address, good) == "ok"
        other = Access(pem / "ca.pem", pem / "client-observe.pem", pem / "client-observe.key")
        with pytest.raises(NotAllowed):
            await label(site.address, other)
        with pytest.raises(Unavailable):
            await label(site.address, Access(pem / "ca.pem"))
