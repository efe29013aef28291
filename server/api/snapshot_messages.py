"""The engine's snapshot as the message that the console, `server status` and the probes read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proto import observe_pb2 as pb
from server import host
from server.api.model_statistics import ModelStatistics
from server.engine import Engine
from server.ops.host_figures import GpuFigures, HostFigures
from server.request.by_name import filled
from server.request.limits import in_force
from server.telemetry.rows import TelemetryHealth
from server.telemetry_port import TelemetryPort
from server.types import EngineSnapshot, ReplicaStatus, SelfCheck

# Changes listed for one replica; after an upgrade of a whole package every module has changed.
MOST_CHANGED = 50


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Facts about this server that do not depend on what it serves. `limits` are (name, value,
    unit)."""

    name: str
    version: str
    instance: str  # changes at every start
    flags: Mapping[str, str]
    limits: tuple[tuple[str, float, str], ...]
    insecure: bool
    slo_ms: float
    simulated_speed: float = 0.0  # 0: the server's time is real


@dataclass(frozen=True, slots=True)
class Snapshots:
    engine: Engine
    identity: ServerIdentity
    statistics: ModelStatistics
    telemetry: TelemetryPort
    host: Callable[[], HostFigures | None] = lambda: None

    def take(self) -> pb.ServerSnapshot:
        now = self.engine.snapshot()
        message = _engine_message(now)
        message.refused += self.statistics.invalid_rows
        message.requests += self.statistics.invalid_rows
        identity = self.identity
        message.server = identity.name
        message.version = identity.version
        message.insecure = identity.insecure
        message.slo_ms = identity.slo_ms
        message.simulated_speed = identity.simulated_speed
        message.flags.update(identity.flags)
        message.rss_bytes = host.rss_bytes()
        for name, value, unit in in_force(identity.limits, now.facts):
            message.limits.add(name=name, value=value, unit=unit)
        _add_telemetry(message, self.telemetry.health())
        if (figures := self.host()) is not None:
            message.host.CopyFrom(_host_message(figures))
        return message


def _engine_message(now: EngineSnapshot) -> pb.ServerSnapshot:
    message = filled(
        pb.ServerSnapshot,
        now,
        state=pb.ServerState.Value(now.state),
        started_unix_ms=int(now.started * 1000),
        replicas=[_replica_message(replica) for replica in now.replicas],
        pins=[
            pb.StampPin(client=client, stamp=stamp, refused=refused, last_unix_ms=int(last * 1000))
            for client, stamp, refused, last in now.pins
        ],
        refused_formats=[filled(pb.FormatCount, one) for one in now.parts.formats],
        parts_cut=now.parts.cut,
        part_warnings=now.parts.warnings,
    )
    message.MergeFrom(filled(pb.ServerSnapshot, now.counters))
    if now.facts is not None:
        reasons = {**now.facts.reasons, **now.reasons}
        message.MergeFrom(filled(pb.ServerSnapshot, now.facts, limits=(), reasons=reasons))
    return message


def _add_telemetry(message: pb.ServerSnapshot, health: TelemetryHealth) -> None:
    message.telemetry_state = health.state
    message.telemetry_dropped = health.dropped
    message.telemetry_bytes = health.bytes
    message.telemetry_notes.update(health.notes)
    if message.state == pb.READY and health.state.startswith("degraded"):
        message.state = pb.DEGRADED
        message.reason = f"telemetry {health.state}"


def _host_message(now: HostFigures) -> pb.HostStatus:
    """Unknown bytes are 0, other unknown figures NaN."""
    return filled(
        pb.HostStatus,
        now,
        at_unix_ms=int(now.unix_s * 1000),
        cpu_share=_or_nan(now.cpu_share),
        gpus=[_gpu_message(gpu) for gpu in now.gpus],
    )


def _gpu_message(gpu: GpuFigures) -> pb.GpuStatus:
    return filled(
        pb.GpuStatus,
        gpu,
        utilisation=_or_nan(gpu.utilisation),
        power_w=_or_nan(gpu.power_w),
        temperature_c=_or_nan(gpu.temperature_c),
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _replica_message(replica: ReplicaStatus) -> pb.ReplicaStatus:
    return filled(
        pb.ReplicaStatus,
        replica,
        evidence=[
            filled(pb.ProbeEvidence, one, at_unix_ms=int(one.at * 1000)) for one in replica.evidence
        ],
        self_check=_self_check_message(replica.self_check),
        p95_ms=replica.p95_ms,
        last_progress_unix_ms=int(replica.last_progress * 1000),
        last_exit=replica.last_exit,
        last_exit_unix_ms=int(replica.last_exit_at * 1000),
    )


def _self_check_message(check: SelfCheck) -> pb.SelfCheck:
    return filled(
        pb.SelfCheck,
        check,
        changed=[filled(pb.ChangedItem, item) for item in check.changed[:MOST_CHANGED]],
        at_unix_ms=int(check.at * 1000),
        verified_unix_ms=int(check.verified_at * 1000),
    )
