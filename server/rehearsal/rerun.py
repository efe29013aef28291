"""Answers a payload again: by the running server, or by a replica process of any bundle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from proto import admin_pb2, observe_pb2
from proto import inference_pb2 as pb
from server.commands.client import CommandConnection
from server.config import ServerConfig
from server.engine import Engine
from server.errors import PoolRefused
from server.pool.pool import Pool
from server.pool.readiness import tolerance_of
from server.pool.spawn import replica_spawner
from server.rehearsal.replay import ReplaySide, named
from server.request.validation import prediction_id
from server.telemetry.outputs import outputs_of
from server.telemetry.record import FeatureSpec
from server.telemetry_port import NullTelemetry
from server.types import Outcome, Work
from trefoil import InputRefused

TIMEOUT_S = 60.0
# The server writes a row within a fraction of a second; only then can its features be read.
WRITTEN_WITHIN_S = 10.0
LOOK_S = 0.1
TASKS = {"classify": pb.CLASSIFY, "embed": pb.EMBED}


async def by_server(client: CommandConnection, example: bytes, task: str) -> ReplaySide:
    """It counts as one more request of the running server, without slices; its payload is not
    stored.

    Raises TrefoilError, except for a fault of the payload itself.
    """
    request = pb.PredictRequest(task=TASKS[task], no_payload_sample=True)
    request.examples.add().ParseFromString(example)
    request.examples[0].ClearField("slices")
    try:
        response = await client.unary(client.inference.Predict, request, TIMEOUT_S)
    except InputRefused as refusal:
        if refusal.code == "INVALID_ARGUMENT":  # otherwise the message is too large for this server
            return ReplaySide(refusal.serving, "", error=f"{refusal.code}/{refusal.reason}")
        raise
    (result,) = response.results
    name = response.stamp.name
    if result.HasField("fault"):
        return ReplaySide(result.stamp, name, error=f"{result.fault.code}/{result.fault.reason}")
    found = result.prediction
    side = ReplaySide(
        result.stamp,
        name,
        found.label,
        outputs_of(found),
        {score.label: score.probability for score in found.scores},
    )
    row = await _written(client, result.prediction_id)
    schema = await schema_of(client, result.stamp)
    return replace(
        side,
        features=named(row.features, schema) if row is not None else {},
        tolerance=await _tolerance(client, result.stamp),
    )


async def by_stamp(client: CommandConnection, identifier: str, stamp: str) -> ReplaySide:
    """Answer with a bundle that the running server has loaded. The answer is neither counted nor
    recorded, so its features are unknown. Raises TrefoilError."""
    request = admin_pb2.ReplayRequest(prediction_id=identifier, stamp=stamp)
    response = await client.unary(client.admin.Replay, request, TIMEOUT_S)
    result = response.now
    if result.HasField("fault"):
        error = f"{result.fault.code}/{result.fault.reason}"
        return ReplaySide(result.stamp or stamp, "", error=error)
    found = result.prediction
    scores = {score.label: score.probability for score in found.scores}
    return ReplaySide(
        result.stamp,
        "",
        found.label,
        outputs_of(found),
        scores,
        tolerance=response.tolerance,
    )


async def _written(client: CommandConnection, identifier: str) -> observe_pb2.PredictionRow | None:
    """The server's own row of a prediction just made; None if it stores none."""
    until = time.monotonic() + WRITTEN_WITHIN_S
    request = observe_pb2.SamplesRequest(prediction_ids=[identifier])
    while time.monotonic() < until:
        found = await client.unary(client.observe.Samples, request, TIMEOUT_S)
        if found.samples:
            row: observe_pb2.PredictionRow = found.samples[0].row
            return row
        await asyncio.sleep(LOOK_S)
    return None


async def _tolerance(client: CommandConnection, stamp: str) -> float:
    """The golden tolerance of the replicas of that stamp; 0 if there are none."""
    replicas = (await client.state(TIMEOUT_S)).snapshot.replicas
    return max(
        (
            one.tolerance
            for replica in replicas
            if replica.stamp == stamp
            for one in replica.evidence
        ),
        default=0.0,
    )


async def schema_of(client: CommandConnection, stamp: str) -> list[FeatureSpec]:
    """The features of a stamp that the server knows; [] for other stamps."""
    request = observe_pb2.HistoryRequest(kinds=["feature"])
    return [
        FeatureSpec(f.name, f.modality, f.kind, f.unit, tuple(f.categories))
        async for event in client.stream(client.observe.History, request, TIMEOUT_S)
        if (f := event.feature).stamp == stamp
    ]


async def by_bundle(path: Path, config: ServerConfig, example: bytes, task: str) -> ReplaySide:
    """Start one replica of the bundle, check it with its golden inputs, answer, and end it.

    Raises PoolRefused.
    """
    config = replace(config, bundle=path, warm_pool=1, memory_check=False)
    engine = Engine(config, Pool(config, replica_spawner(config)), NullTelemetry())
    await engine.start()
    try:
        embedding = task == "embed"
        work = Work(id=prediction_id(), example=example, task=task, want_embedding=embedding)
        while not engine.serving:
            _check_alive(engine)
            await asyncio.sleep(LOOK_S)
        outcome = await engine.predict(work)
        facts, tolerance = engine.facts, tolerance_of(engine.snapshot().replicas)
    finally:
        await engine.stop()
    assert facts is not None  # it has started
    side = _side(outcome, facts.stamp_name, facts.features)
    return replace(side, tolerance=tolerance)


def _check_alive(engine: Engine) -> None:
    for replica in engine.snapshot().replicas:
        if replica.state in ("dead", "wrong") or replica.restarts:
            raise PoolRefused("probe", f"the replica is {replica.state}: {replica.reason}")


def _side(outcome: Outcome, name: str, schema: Sequence[FeatureSpec]) -> ReplaySide:
    answer, fault = outcome.answer, outcome.fault
    if answer is None:
        error = f"{fault.code}/{fault.reason}" if fault else ""
        return ReplaySide(outcome.stamp, name, error=error)
    return ReplaySide(
        outcome.stamp,
        name,
        answer.label,
        outputs_of(answer),
        {score.label: score.probability for score in answer.scores},
        named(np.frombuffer(answer.features, "<f4").tolist(), schema),
    )
