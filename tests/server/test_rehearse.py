"""`server rehearse` on the real program with real bundles: one with the same answers, one with
other answers, and a slower one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.build.build import write_bundle
from pipelines.models.qwen import thinker
from proto import admin_pb2, observe_pb2
from proto import inference_pb2 as pb
from server.commands.client import CommandConnection
from server.main import main
from tests.support.patience import patience
from tests.support.running import program
from tests.support.tinybundle import LABELS, ONE_THREAD, make_spec, thinker_config
from trefoil import TrefoilError

Captured = pytest.CaptureFixture[str]
REQUESTS = 90  # 73 would do


@pytest.fixture(scope="module")
def asked_server(tiny_bundle: Path) -> Iterator[str]:
    """A server of the tiny bundle that has answered some requests and kept them all."""
    flags = ("--bundle", str(tiny_bundle), "--warm-pool", "1", "--threads", "1")
    with program(*flags, "--sample-share", "1") as server:
        asyncio.run(ask(server.address))
        yield server.address
        assert server.stop() == 0


async def ask(address: str) -> None:
    async with CommandConnection(address) as client:
        for number in range(REQUESTS):
            request = pb.PredictRequest()
            example = request.examples.add(slices={"site": "ab"[number % 2]})
            example.parts.add(text=f"pump {number} is louder than it was at {number % 24} o'clock")
            response = await client.unary(client.inference.Predict, request, 60.0)
            assert not response.results[0].HasField("fault")


def variant(path: Path, **changes: Any) -> str:
    write_bundle(make_spec(**changes), path, ONE_THREAD)
    return str(path)


def rehearse(capsys: Captured, address: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["rehearse", *arguments, "--json", "--server", address])
    out, err = capsys.readouterr()
    assert out, err
    return code, json.loads(out)


def journaled(address: str, row: tuple[str, str, str]) -> bool:
    """Whether the history of deploys gets this row: it is written a moment after its cause."""
    end = time.monotonic() + patience(20)
    while not (found := row in journal(address)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def journal(address: str) -> list[tuple[str, str, str]]:
    async def read() -> list[tuple[str, str, str]]:
        async with CommandConnection(address) as client:
            request = observe_pb2.HistoryRequest(kinds=["deploy"])
            rows = [
                event.deploy async for event in client.stream(client.observe.History, request, 30.0)
            ]
            return [(row.action, row.stamp, row.detail) for row in rows]

    return asyncio.run(read())


def test_the_snapshot_has_what_the_host_uses(asked_server: str) -> None:
    async def read() -> observe_pb2.HostStatus:
        async with CommandConnection(asked_server) as client:
            while not (found := (await client.state(30.0)).snapshot.host).at_unix_ms:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
            return found

    host = asyncio.run(asyncio.wait_for(read(), patience(20)))
    assert 0 < host.memory_used_bytes < host.memory_total_bytes and host.cores > 0
    assert 0 < host.disk_free_bytes < host.disk_total_bytes


def test_one_payload_is_answered_by_another_stamp_and_leaves_no_trace(
    asked_server: str, tmp_path: Path, capsys: Captured
) -> None:
    path = variant(tmp_path / "beside", card="# tiny\n\nBeside the other.\n")
    assert main(["load", path, "--server", asked_server]) == 0
    stamp = capsys.readouterr().out.split()[-1]

    async def kept() -> tuple[str, int]:
        async with CommandConnection(asked_server) as client:
            request = observe_pb2.SamplesRequest(filter="kept", limit=1)
            found = await client.unary(client.observe.Samples, request, 30.0)
            return found.samples[0].row.prediction_id, (await client.state(30.0)).snapshot.requests

    identity, requests = asyncio.run(kept())
    code = main(["replay", identity, "--stamp", stamp[:12], "--json", "--server", asked_server])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["same"], found["differs"]
    lines = {line["name"]: line for line in found["lines"]}
    assert lines["stamp"]["now"] == stamp != lines["stamp"]["kept"]
    assert asyncio.run(kept()) == (identity, requests), "neither counted nor recorded"

    async def embed() -> str:
        async with CommandConnection(asked_server) as client:
            request = pb.PredictRequest(task=pb.EMBED)
            request.examples.add().parts.add(text="pump 7 is silent")
            done = await client.unary(client.inference.Predict, request, 60.0)
            identity = done.results[0].prediction_id
            wanted = observe_pb2.SamplesRequest(prediction_ids=[identity], with_payload=True)
            while not (await client.unary(client.observe.Samples, wanted, 30.0)).samples:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.1)
            return str(identity)

    embedded = asyncio.run(asyncio.wait_for(embed(), patience(20)))
    code = main(["replay", embedded, "--stamp", stamp[:12], "--json", "--server", asked_server])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["same"], found["differs"]
    missing = main(["replay", identity, "--stamp", "f" * 12, "--server", asked_server])
    assert missing == 1 and "ffffffffffff is not loaded" in capsys.readouterr().err


def test_a_bundle_that_answers_alike_is_promoted(
    asked_server: str, tmp_path: Path, capsys: Captured
) -> None:
    path = variant(tmp_path / "alike", card="# tiny\n\nThe same again.\n")
    code, found = rehearse(capsys, asked_server, path)
    assert (code, found["verdict"]) == (0, "promote"), found["reason"]
    figures = found["figures"]
    assert figures["payloads"] == figures["effective"] == REQUESTS
    assert figures["changed"] == 0 and abs(figures["confidence_difference"]) < 1e-3
    stamp = found["progress"]["stamp"]["hex"]
    row = ("rehearse", stamp, f"promote: {found['reason']}")
    assert journaled(asked_server, row), journal(asked_server)
    # It may be activated now, or rehearsed once more by its stamp, for people to read.
    assert main(["rehearse", stamp[:12], "--payloads", "20", "--server", asked_server]) == 6
    out = capsys.readouterr().out
    assert "hold: 20 payloads are too few" in out and "answers changed" in out
    # So that the next one can be loaded.
    assert main(["activate", stamp, "--server", asked_server]) == 0
    assert main(["rollback", "--server", asked_server]) == 0


def test_a_bundle_that_answers_otherwise_is_refused(
    asked_server: str, tmp_path: Path, capsys: Captured
) -> None:
    names = [*LABELS[1:], LABELS[0]]
    swapped = [{"name": n, "text": text} for n, text in zip(names, LABELS, strict=True)]
    path = variant(tmp_path / "swapped", labels={"labels": swapped, "temperature": 1.0})
    code, found = rehearse(capsys, asked_server, path)
    assert (code, found["verdict"]) == (1, "refuse")
    assert "of the answers change" in found["reason"]
    assert {part["slice"] for part in found["slices"]} == {"site=a", "site=b"}
    assert any(message.startswith("site=") for message in found["messages"])


def test_a_slower_bundle_is_refused(asked_server: str, tmp_path: Path, capsys: Captured) -> None:
    config = thinker_config()
    config["text_config"]["num_hidden_layers"] = 24
    fresh = thinker.fresh(thinker.read_config(config), 0)
    weights = {name: tensor.detach().clone() for name, tensor in thinker.tensors_of(fresh).items()}
    path = variant(tmp_path / "slow", config=config, weights=weights)
    code, found = rehearse(capsys, asked_server, path)
    assert code == 1 and found["figures"]["work_ratio_low"] > 1.5
    assert "times as long" in found["reason"]


async def test_what_cannot_be_meant_is_refused_with_the_field(asked_server: str) -> None:
    request = admin_pb2.RehearseRequest
    for wrong, field in (
        (request(), "stamp"),
        (request(stamp="ab" * 32, path="/x"), "stamp"),
        (request(stamp="ab" * 32, payloads=5000), "payloads"),
        (request(stamp="ab" * 32, shadow_share=1.5), "shadow_share"),
        (request(stamp="ab" * 32, seconds=1e6), "seconds"),
    ):
        async with CommandConnection(asked_server) as client:
            with pytest.raises(TrefoilError) as refused:
                async for _ in client.stream(client.admin.Rehearse, wrong):
                    pass
        assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", field)
