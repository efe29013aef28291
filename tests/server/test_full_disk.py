"""A server with a full disk: what it holds in memory is bounded, and it can still be operated."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proto import admin_pb2, admin_pb2_grpc
from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.values import MIB
from tests.support.patience import patience
from tests.support.running import channel_to, program

DISK_MIB = 8
CALLERS, REQUESTS = 6, 15


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a few MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def picture(seed: int) -> bytes:
    """A PNG of noise, 3.9 MB."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1140, 1140, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def rss(pid: int, field: str = "VmHWM:") -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition(field)[2].split()[0]) * 1024


def test_a_full_disk_with_six_callers_of_large_pictures(small_disk: Path) -> None:
    """6,069 MB within 40 s before payloads that wait were bounded."""

    async def calls(address: str) -> None:
        example = pb.Example(parts=[pb.Part(data=picture(1), modality=pb.IMAGE)])
        request = pb.PredictRequest(examples=[example])
        async with channel_to(address) as channel:
            stub = stubs.InferenceStub(channel)

            async def caller() -> None:
                for _ in range(REQUESTS):
                    answer = await stub.Predict(request, timeout=patience(60))
                    assert answer.results[0].HasField("prediction")

            await asyncio.gather(*(caller() for _ in range(CALLERS)))
            drain = admin_pb2_grpc.AdminStub(channel).Drain(admin_pb2.DrainRequest(grace_s=5))
            assert [step async for step in drain][-1].done

    flags = ("--warm-pool", "1", "--sample-share", "1", "--data", str(small_disk))
    with program(*flags) as running:
        with suppress(OSError):  # full
            (small_disk / "rest").write_bytes(bytes(DISK_MIB * MIB))
        asyncio.run(calls(running.address))
        assert CALLERS * REQUESTS * len(picture(1)) > 300 * MIB
        assert rss(running.process.pid) < 400 * MIB
        assert running.stop() == 0
    assert any("nothing is being kept" in line for line in running.lines)
