"""A fleet with one instance of each problem, as rows of the Observe stream. Seeded generators draw
it, so two runs have the same story, relative to when they start."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from proto import inference_pb2, observe_pb2

PARTS = ("weights", "preprocessing", "code", "libraries", "labels", "reference", "data")
MIXES = ("text", "image+text", "audio+image+text")
LABELS = ("ok", "check", "stop")
# name, modality, kind, unit, mean, deviation
FEATURES = (
    ("audio.snr_db", "audio", "numeric", "dB", 17.0, 6.0),
    ("audio.rms_dbfs", "audio", "numeric", "dBFS", -24.0, 5.0),
    ("audio.silence", "audio", "numeric", "share", 0.2, 0.08),
    ("image.mean_luma", "image", "numeric", "0-255", 118.0, 22.0),
    ("image.sharpness", "image", "numeric", "", 80.0, 30.0),
    ("image.width", "image", "numeric", "px", 1280.0, 160.0),
    ("text.tokens", "text", "numeric", "tokens", 48.0, 15.0),
    ("text.oov_rate", "text", "numeric", "share", 0.03, 0.01),
    ("out.confidence", "output", "numeric", "", 0.84, 0.09),
    ("out.entropy", "output", "numeric", "nats", 0.45, 0.2),
    ("embedding.pc1", "embedding", "numeric", "", 0.0, 1.0),
)
FORMATS = ("jpeg", "png", "webp")
SLICES = ("", "site=a", "site=b", "lang=de")
# (feature, slice) -> shift of the live distribution in deviations of the reference
SHIFTS = {
    ("audio.snr_db", "site=b"): -0.95,
    ("audio.snr_db", ""): -0.35,
    ("text.oov_rate", "lang=de"): 0.6,
    ("out.confidence", "site=b"): -0.55,
    ("image.mean_luma", "site=a"): 0.25,
    ("embedding.pc1", "site=b"): 0.45,
}
BINS = 64


@dataclass(frozen=True, slots=True)
class Character:
    """How one server of the story behaves."""

    name: str
    base_ms: float = 30.0
    state: int = observe_pb2.READY
    reason: str = ""
    warm: int = 4
    wanted: int = 4
    odd_parts: dict[str, str] = field(default_factory=dict)
    clock_ms: float = 0.0
    drifts: bool = True
    hostile: bool = False
    pins: tuple[tuple[str, str], ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    insecure: bool = False
    # (seconds before the start, action, detail); more than the activation every server has
    deploys: tuple[tuple[float, str, str], ...] = ()


FLEET = (
    Character(
        "gpu-01.lon",
        29.0,
        deploys=(
            (690, "rehearse", "240 kept requests: 239 labels as before, p95 61 ms against 63 ms"),
            (560, "canary", "5 % of the traffic, by session"),
        ),
    ),
    Character("gpu-02.lon", 31.0, deploys=((430, "load", "4 replicas warm in 9.4 s"),)),
    Character(
        "gpu-03.lon",
        30.0,
        odd_parts={"preprocessing": "b81c55f0"},
        pins=(("line-4-camera", "41be07aa"),),
    ),
    Character(
        "gpu-01.fra",
        62.0,
        state=observe_pb2.DEGRADED,
        reason="2 of 4 replicas slow: probe audio+image+text p50 212 ms, limit 120 ms",
        warm=2,
        clock_ms=412.0,
        env={"gpu": "NVIDIA L4", "driver": "550.90"},
    ),
    Character(
        "gpu-02.fra",
        33.0,
        deploys=((620, "refuse", "golden 3 of 24 differ by 0.04, allowed 0.0001"),),
    ),
    Character(
        "cpu-edge-1",
        48.0,
        drifts=False,
        odd_parts={"labels": "1c2d93e7"},
        insecure=True,
        deploys=((200, "rollback", "labels of the old line are back"),),
    ),
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stamp_parts(who: Character) -> dict[str, str]:
    return {part: digest(part + who.odd_parts.get(part, "")) for part in PARTS}


def stamp_of(who: Character, before_deploy: bool = False) -> str:
    parts = {part: digest(part) for part in PARTS} if before_deploy else stamp_parts(who)
    return digest("".join(parts.values()))


def snapshot(who: Character, now_s: float, requests: int) -> observe_pb2.ServerSnapshot:
    stamp = stamp_of(who)
    detail = {
        "preprocess.json": digest("preprocess.json" + who.odd_parts.get("preprocessing", "")),
        "libraries/torch": "2.13.0+cpu",
        "libraries/transformers": "5.23.0",
        "labels.json": digest("labels.json" + who.odd_parts.get("labels", "")),
        "code/image.py": digest("image.py"),
    }
    found = observe_pb2.ServerSnapshot(
        server=who.name,
        version="0.1.0",
        state=observe_pb2.ServerState.Name(who.state),
        reason=who.reason,
        started_unix_ms=int((now_s - 86_400) * 1000),
        stamp=stamp,
        stamp_name=f"triage-2026.11.23+{stamp[:12]}",
        stamp_parts=stamp_parts(who),
        stamp_detail=detail,
        env={"gpu": "NVIDIA L4", "driver": "560.35", "dtype": "bf16", **who.env},
        reasons={"device": "cuda:0: one device found", "dtype": "bf16: the device supports it"},
        warm_replicas=who.warm,
        wanted_replicas=who.wanted,
        queued=3 if who.base_ms > 50 else 0,
        queue_limit=256,
        requests=requests,
        failed=12,
        refused=4,
        telemetry_state="ok",
        rss_bytes=2 << 30,
        labels=LABELS,
        slo_ms=250.0,
        insecure=who.insecure,
    )
    busy = min(0.2 + who.base_ms / 200, 0.98)
    found.host.at_unix_ms = int(now_s * 1000)
    found.host.cpu_share, found.host.cores = 0.4 * busy, 32
    found.host.memory_used_bytes, found.host.memory_total_bytes = 41 << 30, 128 << 30
    found.host.disk_free_bytes, found.host.disk_total_bytes = 310 << 30, 960 << 30
    for index in range(2):
        found.host.gpus.add(
            index=index,
            name="NVIDIA L4",
            memory_used_bytes=13 << 30,
            memory_total_bytes=23 << 30,
            utilisation=busy,
            power_w=30 + 42 * busy,
            temperature_c=41 + 30 * busy,
        )
    for index in range(who.wanted):
        ready = index < who.warm
        replica = found.replicas.add(
            index=index,
            state="ready" if ready else "slow",
            reason="" if ready else "probe audio+image+text p50 212 ms, limit 120 ms",
            device=f"cuda:{index % 2}",
            stamp=stamp,
            pid=4000 + index,
            answered=requests // who.wanted,
            rss_bytes=512 << 20,
        )
        replica.evidence.add(
            mix="audio+image+text",
            ok=ready,
            p50_ms=31.0 if ready else 212.0,
            max_ms=40.0 if ready else 260.0,
            limit_ms=120.0,
            runs=9,
            worst_difference=2e-6,
            tolerance=1e-4,
            at_unix_ms=int(now_s * 1000) - 60_000,
            source="probe",
        )
    for client, stamp_pinned in who.pins:
        found.pins.add(
            client=client, stamp=digest(stamp_pinned), refused=17, last_unix_ms=int(now_s * 1000)
        )
    if who.hostile:
        found.server = "<img src=x onerror=alert(1)><b>bold</b>\u202egnp.exe"
        found.reason = "<script>alert('x')</script> " + "A" * 200_000
    return found


def slowness(who: Character, ago_s: float) -> float:
    """The latency burn: a hump two minutes before the start, and a server that stays slow."""
    hump = 4.2 * math.exp(-0.5 * ((ago_s - 130.0) / 22.0) ** 2)
    lasting = 1.2 if who.base_ms > 50 and ago_s < 130 else 0.0
    return 1.0 + hump * (1.0 if who.base_ms < 50 else 1.6) + lasting


def latency_rows(
    who: Character, at_s: int, ago_s: float, width_s: int, rng: np.random.Generator
) -> Iterator[observe_pb2.WatchEvent]:
    """Rows of one bucket, one a mix, with exemplars and the predictions they name."""
    stamp = stamp_of(who, before_deploy=ago_s > 270)
    for number, mix in enumerate(MIXES):
        requests = int(rng.poisson(28 * width_s))
        if not requests:
            continue
        centre = who.base_ms * (0.75 + 0.35 * number) * slowness(who, ago_s)
        times = np.clip(centre * np.exp(rng.normal(0, 0.28, requests)), 0.3, 15_000)
        tail = rng.random(requests) < 0.012
        times[tail] *= rng.uniform(2.0, 4.5, int(tail.sum()))
        buckets = np.clip(np.floor(np.log2(times / 0.25) * 4), 0, 63).astype(int)
        total = float(times.sum())
        waiting = 0.1 + 0.45 * (1 - 1 / slowness(who, ago_s))
        shares = np.array([waiting, 0.12, 0.08, 0.62, 0.03])
        stages = shares / shares.sum() * total
        row = observe_pb2.LatencyRow(
            bucket_unix_ms=at_s * 1000,
            width_s=width_s,
            stamp=stamp,
            mix=mix,
            replica=number % max(1, who.warm),
            requests=requests,
            errors=int(rng.random() < 0.01),
            counts=np.bincount(buckets, minlength=BINS).tolist(),
            queue_ms=stages[0],
            decode_ms=stages[1],
            preprocess_ms=stages[2],
            forward_ms=stages[3],
            post_ms=stages[4],
            total_ms=total,
            batch_rows=requests * 6,
        )
        slowest = float(times.max())
        identity = digest(f"{who.name} {at_s} {mix}")[:20]
        row.exemplars.add(prediction_id=identity, total_ms=slowest, trace_id=identity + "0" * 12)
        yield observe_pb2.WatchEvent(latency=row)
        yield observe_pb2.WatchEvent(
            prediction=prediction(who, identity, at_s, mix, slowest, stages / total, rng, stamp)
        )


def prediction(
    who: Character,
    identity: str,
    at_s: float,
    mix: str,
    total_ms: float,
    shares: np.ndarray,
    rng: np.random.Generator,
    stamp: str = "",
) -> observe_pb2.PredictionRow:
    site = "ab"[int(rng.integers(2))]
    confidence = float(np.clip(rng.normal(0.62 if site == "b" else 0.86, 0.12), 0.34, 0.999))
    label = LABELS[int(rng.choice(3, p=(0.7, 0.2, 0.1)))]
    failed = rng.random() < 0.02
    parts = shares * total_ms
    return observe_pb2.PredictionRow(
        prediction_id=identity,
        at_unix_ms=int(at_s * 1000),
        stamp=stamp or stamp_of(who),
        mix=mix,
        label="" if failed else label,
        confidence=0.0 if failed else confidence,
        margin=confidence - (1 - confidence) / 2,
        entropy=-math.log(confidence),
        closed_set_mass=0.97,
        timing=inference_pb2.Timing(
            queue_ms=parts[0],
            decode_ms=parts[1],
            preprocess_ms=parts[2],
            forward_ms=parts[3],
            post_ms=parts[4],
            total_ms=total_ms,
        ),
        batch_size=6,
        replica=int(rng.integers(max(1, who.warm))),
        slices={"site": site, "region": who.name.rpartition(".")[2], "client": "line-4-camera"},
        error="INVALID_ARGUMENT/IMAGE_TRUNCATED/examples[0].parts[1].data" if failed else "",
        error_message="parts[1].data: the JPEG ends after 812 of 40,960 bytes" if failed else "",
        payload_kept=bool(rng.random() < 0.4),
        client="line-4-camera",
        session=f"s{int(rng.integers(9))}",
        trace_id=identity + "0" * 12,
        true_label=LABELS[int(rng.choice(3))] if rng.random() < 0.15 else "",
        features=[float(rng.normal(mean, sd)) for *_, mean, sd in FEATURES] + [0.0],
        task="classify",
        batch_mates=[digest(f"{identity}{n}")[:20] for n in range(5)],
    )
