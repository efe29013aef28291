"""What the tests of OpenTelemetry send and read: a record, its call, instruments, a scrape."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.ops.otel_setup import known_methods
from server.telemetry.otel.configuration import OtelConfiguration
from server.telemetry.otel.instruments import Instruments
from server.telemetry.otel.items import ObservedCall
from server.telemetry.otel.resources import ServedStamp
from server.telemetry.record import Record
from server.telemetry.rows import DriftRow
from tests.support.patience import patience
from tests.support.stub_replica import STAMP

ROOT = Path(__file__).resolve().parents[2]
PREDICT = "trefoil.v1.Inference/Predict"
PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
ABOUT = {"service.name": "trefoil-server", "service.version": "0.1.0"}


def record(**changes: Any) -> Record:
    made = Record(
        prediction_id="0" * 31 + "1",
        at=1_800_000_000.0,
        stamp=STAMP,
        task="classify",
        mix="audio+image+text",
        label="ok",
        confidence=0.9,
        margin=0.8,
        entropy=0.1,
        closed_set_mass=0.99,
        features=b"",
        slices={"site": "a"},
        client="press-7",
        session="",
        replica=0,
        batch_size=4,
        queue_ms=1.0,
        decode_ms=2.0,
        preprocess_ms=3.0,
        forward_ms=8.0,
        post_ms=0.5,
        total_ms=20.0,
    )
    return replace(made, **changes)


def call(method: str = PREDICT, status: str = "OK", took_s: float = 0.02) -> ObservedCall:
    return ObservedCall(method, 1_800_000_000_000_000_000, status=status, took_s=took_s)


@contextmanager
def instruments(
    plan: OtelConfiguration, served: ServedStamp | None = None, **options: Any
) -> Iterator[Instruments]:
    now = served or ServedStamp(STAMP, "stub", ("ok", "stop"))
    made = Instruments(plan, ABOUT, known_methods(), lambda: now, **options)
    try:
        yield made
    finally:
        made.close()


def one_call(made: Instruments, *records: Record, parent: str = "", status: str = "OK") -> None:
    begun = made.began(PREDICT, parent)
    for one in records:
        made.answered(one, begun)
    made.ended(begun, status, 0.02)


def wait_for(happened: Callable[[], object], within_s: float = 20.0) -> None:
    limit_s = patience(within_s)
    deadline = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline, f"did not happen within {limit_s:.0f} s"
        time.sleep(0.01)


def drift(feature: str, slice_: str = "", level: str = "ok", ks: float = 0.1) -> DriftRow:
    return DriftRow(0, STAMP, feature, slice_, 3600, "bundle", 500, 400, 320, ks=ks, level=level)


def counted(made: Instruments) -> bool:
    """Whether a call or a row has come through the queue."""
    return any(one.point.n for count in made.collect() for one in count.histograms)


def scrape(made: Instruments, accept: str = "") -> str:
    return scraped(made, accept).decode()


def scraped(made: Instruments, accept: str = "") -> bytes:
    url = next(one for one in made.messages if one.startswith("metrics on")).removeprefix(
        "metrics on "
    )
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=patience(10)) as answer:
        return bytes(answer.read())
