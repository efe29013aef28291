"""Parts made to cost a server time or memory: they are refused, and all other callers are
unaffected. It asserts bounds on memory and on the order of answers, never times."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import pytest
from PIL import Image

from proto import inference_pb2 as pb
from proto import inference_pb2_grpc, observe_pb2, observe_pb2_grpc
from tests.support import media_bytes as made
from tests.support.patience import patience
from tests.support.tinybundle import jpeg

MIB = 1 << 20
GOOD = pb.Example(parts=[pb.Part(text="the press sounds rough"), pb.Part(data=jpeg())])


@dataclass(frozen=True)
class Served:
    predict: inference_pb2_grpc.InferenceStub
    observe: observe_pb2_grpc.ObserveStub

    def ask(self, *examples: pb.Example) -> list[pb.Result]:
        request = pb.PredictRequest(examples=examples)
        return list(self.predict.Predict(request, timeout=patience(60)).results)

    def replica(self) -> observe_pb2.ReplicaStatus:
        (event,) = self.observe.Watch(observe_pb2.WatchRequest(once=True))
        found: observe_pb2.ReplicaStatus = event.snapshot.replicas[0]
        return found

    def decoders(self) -> list[psutil.Process]:
        """The processes that decode: children of the one they are forked from."""
        (parent,) = psutil.Process(self.replica().pid).children()
        found: list[psutil.Process] = parent.children()
        return found


@pytest.fixture
def served(tiny_server: str) -> Iterator[Served]:
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(tiny_server, options=options) as channel:
        yield Served(
            inference_pb2_grpc.InferenceStub(channel), observe_pb2_grpc.ObserveStub(channel)
        )


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of which one scan without content is repeated."""
    picture = Image.new("L", (side, side), 77)
    data = made.image("JPEG", picture, progressive=True, quality=50)
    last = [found.start() for found in re.finditer(b"\xff\xda", data)][-1]
    return data[:-2] + data[last:-2] * (scans - 1) + data[-2:]


def with_comments(count: int) -> bytes:
    data = made.image("GIF")
    at = 13 + 3 * (2 << (data[10] & 7))
    return data[:at] + b"!\xfe\1a\0" * count + data[at:]


def with_segments(count: int, before_the_picture: bool) -> bytes:
    data, segment = made.image("JPEG"), b"\xff\xe1\0\x09Exif\0\0\0"
    at = 2 if before_the_picture else len(data) - 2
    return data[:at] + segment * count + data[at:]


HOSTILE = {
    "a JPEG of 6,500 scans": lambda: many_scans(4_999, 6_500),
    "1.4 million segments": lambda: with_segments(1_400_000, True),
    "1.4 million segments behind the picture": lambda: with_segments(1_400_000, False),
    "3 million comments": lambda: with_comments(3_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_part_made_to_cost_work_is_refused_and_harms_nobody(name: str, served: Served) -> None:
    before, decoders = served.replica(), served.decoders()
    hostile = pb.Example(parts=[pb.Part(data=HOSTILE[name]())])
    refused, good = served.ask(hostile, GOOD)
    assert good.prediction.label
    assert (refused.fault.code, refused.fault.reason) == ("INVALID_ARGUMENT", "IMAGE_TOO_COMPLEX")
    assert "baseline JPEG" in refused.fault.message
    after = served.replica()
    assert (after.pid, after.restarts) == (before.pid, before.restarts)
    assert served.decoders() == decoders
    assert after.rss_bytes - before.rss_bytes < 100 * MIB


def peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (found,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(found) << 10


def test_rows_of_very_large_pictures_take_bounded_memory(served: Served) -> None:
    """48 pictures of 25 megapixels decode to 3.6 GB; a decoder holds the pictures of one row."""
    picture = made.image("WEBP", Image.new("RGB", (5_000, 5_000), (9, 99, 199)))
    row = pb.Example(parts=[pb.Part(data=picture)] * 3)
    replica = psutil.Process(served.replica().pid)
    watched = [replica, *served.decoders()]
    for process in watched:
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak
    before = [peak_bytes(process) for process in watched]
    results = served.ask(*[row] * 16)
    assert [result.fault for result in results if not result.prediction.label] == []
    grown = [peak_bytes(process) - old for process, old in zip(watched, before, strict=True)]
    assert grown[0] < 600 * MIB
    assert max(grown[1:]) < 900 * MIB
    assert served.ask(GOOD)[0].prediction.label
    kept = sum(process.memory_full_info().pss for process in served.decoders())
    assert kept < 200 * MIB


def test_a_row_behind_very_large_ones_is_answered_before_them(served: Served) -> None:
    picture = made.image("PNG", Image.new("RGB", (5_000, 5_000), (9, 99, 199)))
    large = pb.Example(parts=[pb.Part(data=picture)] * 3)
    ended: list[str] = []

    def ask(name: str, *examples: pb.Example) -> None:
        assert all(result.prediction.label for result in served.ask(*examples))
        ended.append(name)

    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask, "large", large) for _ in range(3)]
        asked.append(callers.submit(ask, "small", GOOD))
        for one in asked:
            one.result()
    assert ended.index("small") < 2


def test_a_decoder_killed_over_a_row_costs_neither_the_row_nor_the_replica(served: Served) -> None:
    """Stopped first, so that it certainly holds the row when it is killed."""
    before = served.replica()
    decoders = served.decoders()
    for process in decoders:
        process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as caller:
        row = caller.submit(served.ask, GOOD)
        for process in decoders:
            process.kill()
        assert row.result()[0].prediction.label
    assert served.ask(GOOD)[0].prediction.label
    after = served.replica()
    assert (after.pid, after.restarts) == (before.pid, before.restarts)
    end = time.monotonic() + patience(30)
    while served.replica().decoder_restarts == before.decoder_restarts:  # with the next heartbeat
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_holds_the_decoders_is_shown(served: Served) -> None:
    (event,) = served.observe.Watch(observe_pb2.WatchRequest(once=True))
    assert event.snapshot.reasons["decoding"].endswith("processes a replica: seccomp and limits")
