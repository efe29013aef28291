"""A fleet with one of everything that goes wrong, as rows of the Observe stream. Drawn from seeded
generators, so that two runs tell the same story around the moment they start."""

from __future__ import annotations

import hashlib
import io
import math
import struct
import wave
import zlib
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


def feature_rows(who: Character) -> Iterator[observe_pb2.WatchEvent]:
    for name, modality, kind, unit, mean, deviation in FEATURES:
        yield observe_pb2.WatchEvent(
            feature=observe_pb2.FeatureRow(
                name=name,
                modality=modality,
                kind=kind,
                unit=unit,
                stamp=stamp_of(who),
                edges=mean + deviation * _normal_edges(),
                reference_counts=[1875] * BINS,
                reference_n=120_000,
                importance=0.5,
            )
        )
    yield observe_pb2.WatchEvent(
        feature=observe_pb2.FeatureRow(
            name="image.format",
            modality="image",
            kind="categorical",
            categories=FORMATS,
            stamp=stamp_of(who),
            reference_counts=[90_000, 30_000, 0, 0],
            reference_n=120_000,
        )
    )


def _normal_edges() -> np.ndarray:
    """Inner edges of 64 equally likely bins of the standard normal, by bisection of its CDF."""
    grid = np.linspace(-4, 4, 20_001)
    cdf = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in grid])
    return np.interp(np.arange(1, BINS) / BINS, cdf, grid)


def profile_rows(
    who: Character, hour_s: int, n: int, rng: np.random.Generator
) -> Iterator[observe_pb2.WatchEvent]:
    for name, _, _, _, mean, deviation in FEATURES:
        for place in SLICES:
            shift = SHIFTS.get((name, place), 0.0) if who.drifts else 0.0
            share = n if not place else n // 3
            values = rng.normal(shift, 1.0 + abs(shift) * 0.1, min(share, 1500))
            counts = np.histogram(values, np.concatenate(([-9], _normal_edges(), [9])))[0]
            real = mean + deviation * values
            yield observe_pb2.WatchEvent(
                profile=observe_pb2.ProfileRow(
                    stamp=stamp_of(who),
                    feature=name,
                    slice=place,
                    hour_unix_s=hour_s,
                    n=len(values),
                    sum=float(real.sum()),
                    sum_squares=float((real**2).sum()),
                    min=float(real.min()),
                    max=float(real.max()),
                    counts=counts.tolist(),
                )
            )


def drift_rows(
    who: Character, tick_s: int, ago_s: float, rng: np.random.Generator
) -> Iterator[observe_pb2.WatchEvent]:
    """Scores that rise over the ten minutes before the story starts; the last day, which is mostly
    of before, hardly moves."""
    grown = 1 / (1 + math.exp((ago_s - 260) / 60))
    for name, *_ in FEATURES:
        for place in SLICES:
            shift = abs(SHIFTS.get((name, place), 0.04)) * (grown if who.drifts else 0.1)
            n = 8400 if not place else 12 if place == "lang=de" and name[:2] == "im" else 2600
            for hours, share in ((1, 1.0), (4, 0.6), (24, 0.1)):
                kl = (shift * share) ** 2 / 2 * float(rng.uniform(0.93, 1.07)) + 0.002
                row = drift_row(name, place, hours, n * hours, kl)
                row.tick_unix_ms, row.stamp = tick_s * 1000, stamp_of(who)
                yield observe_pb2.WatchEvent(drift=row)


def drift_row(name: str, place: str, hours: int, n: int, kl: float) -> observe_pb2.DriftRow:
    level = "insufficient"
    if n * 0.7 > 320:
        level = "critical" if kl > 0.15 else "high" if kl > 0.1 else "ok"
        level = "warning" if 0.03 < kl <= 0.1 else level
    return observe_pb2.DriftRow(
        feature=name,
        slice=place,
        window_s=hours * 3600,
        baseline="bundle",
        n=n,
        n_effective=n * 0.7,
        n_needed=320,
        ks=min(1.0, math.sqrt(2 * kl) * 0.38 + 0.01),
        p=1e-9 if kl > 0.02 else 0.4,
        q=1e-8 if kl > 0.02 else 0.6,
        kl=kl,
        js=min(1.0, kl / 4),
        psi=kl * 2.0,
        chi2_p=1e-9 if kl > 0.02 else 0.5,
        excess_kl=max(0.0, kl - 0.002),
        expected_kl=0.002,
        level=level,
        structural="new format webp: 4.1 % of images"
        if name == "image.sharpness" and place == "site=a"
        else "",
    )


def quality_rows(who: Character, hour_s: int) -> Iterator[observe_pb2.WatchEvent]:
    rng = np.random.default_rng(hour_s)
    for place, drop in (("", 0.03), ("site=a", 0.0), ("site=b", 0.14)):
        accuracy = 0.93 - drop
        row = observe_pb2.QualityRow(
            bucket_unix_s=hour_s,
            width_s=3600,
            stamp=stamp_of(who),
            slice=place,
            predictions=9000,
            labelled=420,
            accuracy=accuracy + float(rng.normal(0, 0.004)),
            estimated_accuracy=accuracy + 0.012,
            estimated_accuracy_labelled=accuracy + 0.01,
            value_per_1000=412 - 900 * drop,
            estimated_value_per_1000=430 - 860 * drop,
            ece=0.021 + drop / 4,
            median_label_delay_s=5400,
            labels=LABELS,
            confusion=[280, 14, 2, 11, 70, 6, 1, 5, 31],
            value_unit="EUR",
        )
        for number in range(10):
            n = int(5 + 14 * number)
            mean = (number + 0.5) / 10
            row.reliability.add(
                n=n, sum_confidence=n * mean, sum_correct=n * max(0.0, mean - drop / 2)
            )
        yield observe_pb2.WatchEvent(quality=row)
    for number, (expression, words, error) in enumerate(
        (
            ("site=b audio.snr_db<11", "sounds quieter than 11 dB SNR from site b", 0.31),
            ("site=b", "everything from site b", 0.17),
            ("mix=audio+image+text text.tokens>80", "long texts with picture and sound", 0.12),
        )
    ):
        yield observe_pb2.WatchEvent(
            slice=observe_pb2.SliceRow(
                expression=expression,
                message=words,
                support=900 - 200 * number,
                share=0.1 - 0.02 * number,
                error=error,
                error_elsewhere=0.06,
                z=9.1 - 2 * number,
                q=1e-6,
                value_per_1000=120 + 90 * number,
                stamp=stamp_of(who),
                at_unix_ms=hour_s * 1000,
            )
        )


def payload(identity: str) -> bytes:
    """A serialized Example: a sentence, a small picture, half a second of sound."""
    example = inference_pb2.Example(slices={"site": "b"})
    example.parts.add(id="note", text="Grinding noise at spindle 3 since the shift change.")
    example.parts.add(id="photo", mime_type="image/png", data=png(identity))
    example.parts.add(id="sound", mime_type="audio/wav", data=wav())
    return bytes(example.SerializeToString())


def png(identity: str, side: int = 96) -> bytes:
    hue = int(digest(identity)[:2], 16)
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x * 2, y * 2, np.full_like(x, hue)], -1).clip(0, 255).astype(np.uint8)
    raw = b"".join(b"\0" + line.tobytes() for line in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


def wav(seconds: float = 0.5, rate: int = 16_000) -> bytes:
    t = np.arange(int(seconds * rate)) / rate
    wave_form = 0.4 * np.sin(2 * np.pi * (300 + 2400 * t) * t)
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((wave_form * 32767).astype("<i2").tobytes())
    return out.getvalue()
