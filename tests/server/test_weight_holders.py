"""One copy of the weights for all replicas of a device: layout, holder, transfer, life cycle."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.models.qwen.thinker import load_model, read_config
from pipelines.models.text_stack import Projections, side_by_side
from pipelines.models.weight_block import Layout, filled, mapped_block
from pipelines.pipeline import Pipeline
from server.config import ServerConfig
from server.pool import memory
from server.pool.weight_holders import WeightHolders
from server.replica import main as replica
from server.replica import placement
from server.replica.weights.holder import Held, Holder, held
from server.replica.weights.mapped import shared_weights
from server.replica.weights.messages import ASK_BYTES, hand_over, receive
from tests.support.patience import patience
from tests.support.running import until
from tests.support.tinybundle import thinker_config, thinker_tensors

CPU = torch.device("cpu")


# ---- the block -----------------------------------------------------------------------------------


def test_a_block_holds_the_weights_in_the_format_they_run_in() -> None:
    tensors = {name: t.to(torch.bfloat16) for name, t in thinker_tensors().items()}
    block, layout = filled(tensors, CPU, torch.float32)
    values, descriptors = block.export()
    again = Layout.from_values(layout.to_values())
    there = again.views(mapped_block(values, descriptors, again.size, CPU))
    assert there.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(there[name], tensor.float())
    assert len({t.untyped_storage().data_ptr() for t in there.values()}) == 1
    next(iter(there.values())).fill_(9.0)  # a page of this process, not of the block
    assert all(
        torch.equal(t, tensors[name].float()) for name, t in layout.views(block.bytes).items()
    )


def test_a_model_over_a_block_joins_its_projections_without_a_copy() -> None:
    block, layout = filled(thinker_tensors(), CPU, torch.float32)
    model = load_model(read_config(thinker_config()), layout.views(block.bytes), CPU, torch.float32)
    joined = QwenOmniBackbone(model, joined=True)
    first, size = block.bytes.data_ptr(), layout.size
    outside = [
        name
        for name, weight in joined.model.named_parameters()
        if not first <= weight.data_ptr() < first + size
    ]
    assert not outside
    layers = [torch.nn.Linear(4, 3, bias=False) for _ in range(2)]
    assert Projections(layers, joined=True)(torch.ones(1, 4))[1].shape == (1, 3)  # apart: copied


def test_weights_that_run_together_lie_side_by_side() -> None:
    names = [f"model.layers.{n}.self_attn.{p}_proj.weight" for n in (0, 1) for p in "kovq"]
    groups = side_by_side([*names, "model.norm.weight"])
    assert ["q", "k", "v"] == [name.split("_attn.")[1][0] for name in groups[0]]
    assert sorted(map(len, groups)) == [1, 1, 1, 3, 3]


# ---- the holder ----------------------------------------------------------------------------------


def arguments(bundle: Path, **more: str) -> Any:
    flags = [text for name, value in more.items() for text in (f"--{name}", value)]
    return replica.parse(["--fd", "0", "--bundle", str(bundle), "--device", "cpu", *flags])


@contextmanager
def serving(weights: Held, folder: Path) -> Iterator[Path]:
    """A holder in a thread, behind a listening socket as that of the front."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX)
    path = folder / "s"
    listener.bind(str(path))
    listener.listen()

    def pass_on() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(ASK_BYTES, socket.MSG_WAITALL)
                socket.send_fds(ours, [b"replica"], [connection.fileno()])

    threads = [
        threading.Thread(target=pass_on),
        threading.Thread(target=Holder(theirs, weights).serve),
    ]
    for thread in threads:
        thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        ours.close()
        for thread in threads:
            thread.join(patience(20))
        assert not any(thread.is_alive() for thread in threads)


def test_replicas_map_what_the_holder_has_and_answer_as_with_weights_of_their_own(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    own = Pipeline.load(tiny_bundle, device="cpu", threads=1)
    lost = threading.Semaphore(0)
    asked = (CPU, torch.float32, own.stamp.hex)
    with serving(held(arguments(tiny_bundle)), tmp_path) as path:
        found = [shared_weights(path, *asked, lost=lost.release) for _ in range(2)]
        for shared in found:
            assert shared.tensors is not None and f"held by process {os.getpid()}" in shared.reason
            assert shared.bytes >= own.weight_bytes
        placed = found[0].tensors
        pipeline = Pipeline.of(own.bundle, "cpu", threads=1, placed=lambda _, __: placed)
        for name, weight in pipeline.backbone.model.named_parameters():
            assert torch.equal(weight, own.backbone.model.get_parameter(name))
        other = shared_weights(path, CPU, torch.bfloat16, own.stamp.hex)
        assert other.tensors is None and "torch.float32" in other.reason
        stranger = shared_weights(path, CPU, torch.float32, "f" * 64)
        assert stranger.tensors is None and "not ffffffffffff" in stranger.reason
        assert not lost.acquire(blocking=False)
    for _ in found:  # the holder has ended
        assert lost.acquire(timeout=patience(20))


def test_a_connection_that_is_reset_is_the_end_of_the_holder(tmp_path: Path) -> None:
    """It closes while something that it has not read is on the way to it."""
    block, layout = filled(thinker_tensors(), CPU, torch.float32)
    lost = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def hold() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1, socket.MSG_PEEK)  # what the replica asks for stays unread
                values, descriptors = block.export()
                about = {"stamp": "", "pid": 1, "layout": layout.to_values(), "block": values}
                hand_over(connection, about, descriptors)

        holder = threading.Thread(target=hold)
        holder.start()
        found = shared_weights(tmp_path / "s", CPU, torch.float32, "", lost=lost.set)
        holder.join(patience(20))
    assert found.tensors is not None
    assert lost.wait(patience(20))


def test_what_cannot_be_read_leaves_no_descriptor_open(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, (tmp_path / "file").open("w") as file:
        before = os.listdir("/proc/self/fd")
        socket.send_fds(ours, [b"\xff\xff\xff\xff"], [file.fileno()])
        with pytest.raises(ValueError, match="a message of 4294967295 bytes"):
            receive(theirs)
        assert os.listdir("/proc/self/fd") == before


def test_without_a_holder_a_replica_has_weights_of_its_own_and_the_reason(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    why = "its own: nothing is shared"
    assert why in shared_weights(None, CPU, torch.float32, "").reason
    gone = shared_weights(tmp_path / "none", CPU, torch.float32, "")
    assert gone.tensors is None and "FileNotFoundError" in gone.reason
    absent = held(arguments(tiny_bundle.parent / "absent"))
    with serving(absent, tmp_path) as path:
        found = shared_weights(path, CPU, torch.float32, "")
    assert found.tensors is None and "BundleRefused" in found.reason


class NoIpc:
    """A device whose memory cannot be exported, as torch reports it."""

    bytes = torch.empty(0)

    def export(self) -> Any:
        raise RuntimeError("CUDA error: operation not supported\nmore")


def test_a_device_without_ipc_is_the_reason_for_weights_of_ones_own(tmp_path: Path) -> None:
    with serving(Held(NoIpc(), {"stamp": "", "pid": 1}), tmp_path) as path:
        found = shared_weights(path, CPU, torch.float32, "")
    assert found.tensors is None and found.reason.endswith("CUDA error: operation not supported")


# ---- the front -----------------------------------------------------------------------------------

STAND_IN = """
import os, socket, sys
from server.replica.weights.messages import hand_over
control = socket.socket(fileno=int(sys.argv[-1]))
kept = []
while True:
    data, descriptors, _, _ = socket.recv_fds(control, 64, 1)
    if not data:
        break
    kept.append(socket.socket(fileno=descriptors[0]))
    hand_over(kept[-1], {"device": sys.argv[1], "pid": os.getpid()}, [])
"""


def ask(path: Path, device: str) -> tuple[dict[str, Any], socket.socket]:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(patience(20))
    connection.connect(str(path))
    connection.sendall(device.encode().ljust(ASK_BYTES))
    return receive(connection).values, connection


async def test_holders_start_when_asked_one_a_device_and_end_with_their_pool() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holders = WeightHolders(lambda device: (sys.executable, "-c", STAND_IN, device), environment)
    path = holders.path()
    assert path is not None and path == holders.path()
    assert path.is_socket() and os.readlink(path).endswith("(deleted)"), "nobody finds it by name"
    assert holders.pids == {}
    first, kept = await asyncio.to_thread(ask, path, "cuda:0")
    again, _ = await asyncio.to_thread(ask, path, "cuda:0")
    other, _ = await asyncio.to_thread(ask, path, "cuda:1")
    assert first == again and first["device"] == "cuda:0" and other["device"] == "cuda:1"
    assert holders.pids == {"cuda:0": first["pid"], "cuda:1": other["pid"]}

    os.kill(first["pid"], signal.SIGKILL)
    assert await asyncio.to_thread(kept.recv, 1) == b""  # what ends the replica
    replaced, kept = await asyncio.to_thread(ask, path, "cuda:0")
    assert replaced["pid"] != first["pid"]

    await holders.close()
    assert await asyncio.to_thread(kept.recv, 1) == b"" and not path.exists()
    for pid in (replaced["pid"], other["pid"]):
        await until(lambda pid=pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]
    assert holders.pids == {}


LISTENS = """
import asyncio
from server.pool.weight_holders import WeightHolders
async def listen():
    print(WeightHolders(lambda device: (), {}).path(), flush=True)
    await asyncio.Event().wait()
asyncio.run(listen())
"""


def test_a_front_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    front = subprocess.Popen(
        (sys.executable, "-c", LISTENS),
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
    )
    with front:
        assert front.stdout is not None
        path = Path(front.stdout.readline().decode().strip())
        with socket.socket(socket.AF_UNIX) as replica:
            replica.connect(str(path))
        front.kill()
    assert os.listdir(tmp_path) == [] and not path.exists()


async def test_a_replica_that_asks_while_no_descriptor_is_left_is_answered_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holders = WeightHolders(
        lambda device: (sys.executable, "-c", STAND_IN, device), environment, again_s=0.1
    )
    path = holders.path()
    assert path is not None
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as replica:
        replica.connect(str(path))
        replica.sendall(b"cpu".ljust(ASK_BYTES))
        replica.settimeout(patience(20))
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            await until(lambda: "a replica waits for its weights" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        answer = await asyncio.to_thread(receive, replica)
    assert answer.values["device"] == "cpu"
    await holders.close()


def test_weights_are_shared_where_that_saves_memory(tiny_bundle: Path) -> None:
    config = ServerConfig(bundle=tiny_bundle, warm_pool=2)
    assert memory.choose_sharing(config, gpu=True)[0]
    assert memory.choose_sharing(config, gpu=False) == (
        False,
        "all replicas map the files of the bundle",
    )
    half = replace(config, dtype="bfloat16")
    assert memory.choose_sharing(half, gpu=False)[0]
    assert not memory.choose_sharing(replace(half, warm_pool=1), gpu=False)[0]
    off = replace(config, share_weights=False)
    assert memory.choose_sharing(off, gpu=True) == (False, "as configured")


def test_the_front_counts_weights_as_they_run(tiny_bundle: Path) -> None:
    from pipelines.models.device import choose_dtype

    stored = sum(tensor.numel() for tensor in thinker_tensors().values())
    assert memory.parameters(tiny_bundle) == stored
    gpu = torch.device("cuda:0")  # only named
    for device in (CPU, gpu):
        for parameters in (1_600_000, 99_999_999, 100_000_000, 3_000_000_000):
            for asked in ("auto", "float32", "bfloat16", "float16"):
                size = choose_dtype(asked, device, parameters)[0].itemsize
                ours = placement.run_bytes(asked, device is gpu, parameters)
                assert ours == parameters * size
    gib = 1 << 30
    # 6 GiB four times do not fit into 24 GiB; once, they do.
    assert "at most 3 fit" in placement.misfit(6 * gib, 4, 24 * gib, shared=False)
    assert placement.misfit(6 * gib, 4, 24 * gib, shared=True) == ""
    assert "once" in placement.misfit(6 * gib, 12, 24 * gib, shared=True)
