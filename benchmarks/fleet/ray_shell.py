"""Compares an engine behind Ray Serve with one behind its own port:

    build/ray-venv/bin/python -m benchmarks.fleet.ray_shell [--engines 2] [--callers 10]

Needs root and the packages of installers/ray/requirements.txt besides those of the server (`make
ray`). Ray's proxy and about twenty other ports of Ray listen on every address without TLS, so
everything runs in a separate network namespace. Prints tables; exits 1 when the two shells differ.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil

from benchmarks.serve import ROOT
from proto import inference_pb2 as pb

INSIDE = "TREFOIL_RAY_INSIDE"  # set in the namespace
PLAIN, RAY_PORT = "127.0.0.2:8433", 9000
RAY = f"127.0.0.1:{RAY_PORT}"
PREDICT = "/trefoil.v1.Inference/Predict"
DETAILS = "grpc-status-details-bin"
READY_S = 900.0  # on a machine with much other work
PATIENT = {  # Ray would kill its own proxy after three times 5 s
    "RAY_raylet_start_wait_time_s": "900",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
Ask = Callable[..., Awaitable[Any]]


def requests() -> dict[str, bytes]:
    """Bytes of requests: every mix, several rows, and requests that are refused."""
    found = {}
    for name, parts in {
        "text": {"text"},
        "image": {"image"},
        "audio": {"audio"},
        "all": {"text", "image", "audio"},
    }.items():
        message = pb.PredictRequest(request_id=name, want_embedding=True)
        _fill(message.examples.add(), parts)
        found[name] = message.SerializeToString()
    pinned = pb.PredictRequest(request_id="pinned", expected_stamps=["ab" * 32])
    _fill(pinned.examples.add(), {"text"})
    found["another stamp is expected"] = pinned.SerializeToString()
    found["no rows"] = pb.PredictRequest().SerializeToString()
    broken = pb.PredictRequest(request_id="broken")
    broken.examples.add().parts.add(modality=pb.IMAGE, data=b"not a picture")
    _fill(broken.examples.add(), {"text"})
    found["two rows, one is not a picture"] = broken.SerializeToString()
    found["not a message"] = b"\xff\xff\xff"
    return found


def _media() -> tuple[bytes, bytes]:
    # Imported late: torch is needed only inside the namespace.
    from tests.support.tinybundle import jpeg, wav

    return jpeg(), wav()


def _fill(example: pb.Example, parts: set[str]) -> None:
    if "text" in parts:
        example.parts.add(text="the belt slips at start")
    if "image" in parts:
        example.parts.add(modality=pb.IMAGE, data=_media()[0])
    if "audio" in parts:
        example.parts.add(modality=pb.AUDIO, data=_media()[1])


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Ask]:
    """A function from request bytes to answer bytes, over gRPC."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(PREDICT)

        async def ask(data: bytes, **metadata: str) -> Any:
            return await call(data, timeout=60, metadata=tuple(metadata.items()))

        yield ask


async def outcome(ask: Ask, data: bytes) -> tuple[str, ...]:
    """What a caller receives, without the parts that vary: ids, times, the server's name."""
    try:
        answer = pb.PredictResponse.FromString(await ask(data))
    except grpc.aio.AioRpcError as error:
        trailing = {key: value for key, value in error.trailing_metadata() or ()}
        return error.code().name, error.details() or "", repr(trailing.get(DETAILS))
    for result in answer.results:
        for name in ("prediction_id", "timing", "replica", "batch_size"):
            result.ClearField(name)
    return ("OK", answer.SerializeToString(deterministic=True).hex())


async def answering() -> None:
    """Returns once Ray's proxy knows the application, which happens after `serve.run` has
    returned."""
    began = time.monotonic()
    async with grpc.aio.insecure_channel(RAY) as channel:
        describe = channel.unary_unary("/trefoil.v1.Inference/Describe")
        while True:
            try:
                await describe(b"", timeout=60)
                return
            except grpc.aio.AioRpcError as error:
                if time.monotonic() - began > READY_S:
                    raise SystemExit(f"Ray's proxy: {error.code()}: {error.details()}") from None
            await asyncio.sleep(0.2)


async def compared() -> list[tuple[str, str, bool]]:
    rows = []
    async with asking(PLAIN) as plain, asking(RAY) as through_ray:
        for name, data in requests().items():
            left, right = await outcome(plain, data), await outcome(through_ray, data)
            size = len(left[1]) // 2 if left[0] == "OK" else 0
            what = f"{left[0]}, {size} bytes" if size else f"{left[0]}: {left[1][:60]}"
            both = (
                what if left == right else f"{left[0]} {left[1][:80]} / {right[0]} {right[1][:80]}"
            )
            rows.append((name, both, left == right))
    return rows


async def speed(rounds: int) -> list[tuple[str, float, float]]:
    """(measure, plain, Ray), interleaved: median ms of one caller, then calls/s of sixteen."""
    data = requests()["text"]
    alone: dict[str, list[float]] = {PLAIN: [], RAY: []}
    crowd: dict[str, list[float]] = {PLAIN: [], RAY: []}
    async with asking(PLAIN) as plain, asking(RAY) as through_ray:
        for _ in range(rounds):
            for address, ask in ((PLAIN, plain), (RAY, through_ray)):
                times = []
                for _ in range(60):
                    began = time.perf_counter()
                    await ask(data)
                    times.append((time.perf_counter() - began) * 1e3)
                alone[address].append(median(times))
                began = time.perf_counter()
                await asyncio.gather(*(_repeat(ask, data, 12) for _ in range(16)))
                crowd[address].append(16 * 12 / (time.perf_counter() - began))
    return [
        ("one caller, median ms", median(alone[PLAIN]), median(alone[RAY])),
        ("sixteen callers, calls/s", median(crowd[PLAIN]), median(crowd[RAY])),
    ]


async def _repeat(ask: Ask, data: bytes, times: int) -> None:
    for _ in range(times):
        await ask(data)


async def sticky() -> tuple[int, int, int]:
    """(calls that stayed on their engine, calls, engines seen) of 12 sessions with 4 calls each."""
    where: dict[str, set[str]] = {}
    async with grpc.aio.insecure_channel(RAY) as channel:
        describe = channel.unary_unary("/trefoil.v1.Inference/Describe")
        for _ in range(4):
            for number in range(12):
                metadata = (("session_id", f"press-{number}"),)
                answer = pb.DescribeResponse.FromString(
                    await describe(b"", timeout=60, metadata=metadata)
                )
                where.setdefault(f"press-{number}", set()).add(answer.server_name)
    stayed = sum(4 if len(found) == 1 else 1 for found in where.values())
    return stayed, 48, len(set().union(*where.values()))


@asynccontextmanager
async def load(callers: int) -> AsyncIterator[Counter[str]]:
    """Callers without retries, each with a session, so that every engine gets some; counts the
    outcomes of their calls."""
    found, stop, data = Counter[str](), asyncio.Event(), requests()["text"]

    async def caller(ask: Ask, session: str) -> None:
        while not stop.is_set():
            try:
                await ask(data, session_id=session)
                found["OK"] += 1
            except grpc.aio.AioRpcError as error:
                found[error.code().name] += 1
            await asyncio.sleep(0.05)

    async with asking(RAY) as ask:
        tasks = [asyncio.create_task(caller(ask, f"press-{n}")) for n in range(callers)]
        await asyncio.sleep(2.0)
        try:
            yield found
        finally:
            stop.set()
            await asyncio.gather(*tasks)


def engines() -> list[psutil.Process]:
    found = [one for one in _ours() if "ServeReplica" in " ".join(one.cmdline()[:1])]
    return sorted(found, key=lambda one: one.pid)


def _ours() -> list[psutil.Process]:
    """Every process in this network namespace."""
    mine, found = os.readlink("/proc/self/ns/net"), []
    for process in psutil.process_iter():
        try:
            if os.readlink(f"/proc/{process.pid}/ns/net") == mine:
                found.append(process)
        except OSError:
            continue
    return found


def pss_mib(processes: list[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / (1 << 20)


def listeners() -> tuple[int, int]:
    """(listening ports, those that listen on every address), for all processes but the plain
    server."""
    found = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return len(found), sum(c.laddr.ip in ("0.0.0.0", "::") for c in found)


def listed(found: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items()))


async def killed(callers: int, wanted: int) -> str:
    async with load(callers) as found:
        victim = engines()[0]
        began = time.monotonic()
        victim.send_signal(signal.SIGKILL)
        await asyncio.sleep(1.0)
        while len([e for e in engines() if e.pid != victim.pid]) < wanted:
            if time.monotonic() - began > READY_S:
                break
            await asyncio.sleep(0.2)
        back_s = time.monotonic() - began
        await asyncio.sleep(5.0)
    return f"{listed(found)}; its successor's process began after {back_s:.1f} s"


async def updated(callers: int, again: Callable[[], None]) -> str:
    before = {one.pid for one in engines()}
    async with load(callers) as found:
        began = time.monotonic()
        await asyncio.to_thread(again)
        took_s = time.monotonic() - began
        await asyncio.sleep(2.0)
    kept = before & {one.pid for one in engines()}
    return f"{listed(found)}; took {took_s:.1f} s, {len(kept)} of {len(before)} engines kept"


def run(arguments: argparse.Namespace, folder: Path) -> int:
    import ray
    from ray import serve

    from installers.ray.application import build, grpc_options
    from tests.support.tinybundle import make_bundle

    bundle = make_bundle(folder / "bundle")
    flags = f"--bundle {bundle} --warm-pool 1 --threads 1 --no-telemetry"
    with ExitStack() as stack:
        log = stack.enter_context((folder / "plain.log").open("w"))
        # The installed one, beside the `proto` package that Ray brings.
        command = [str(Path(sys.executable).with_name("server")), "--listen", PLAIN]
        command += flags.split()
        plain = subprocess.Popen(
            [*command, "--data", str(folder / "plain")], cwd=folder, stdout=log, stderr=log
        )
        stack.callback(plain.kill)
        began = time.monotonic()
        while "ready on" not in (folder / "plain.log").read_text():
            if plain.poll() is not None or time.monotonic() - began > READY_S:
                log_text = (folder / "plain.log").read_text()[-2000:]
                raise SystemExit(f"the plain server ended with {plain.poll()}: {log_text}")
            time.sleep(0.2)
        plain_s = time.monotonic() - began
        plain_mib = pss_mib([psutil.Process(plain.pid), *psutil.Process(plain.pid).children(True)])
        before = {one.pid for one in _ours()}
        began = time.monotonic()
        ray.init(include_dashboard=False, num_cpus=8, object_store_memory=80 << 20)
        stack.callback(ray.shutdown)
        serve.start(grpc_options=grpc_options(RAY_PORT))
        stack.callback(serve.shutdown)
        options = {"flags": flags, "engines": str(arguments.engines), "cpus": "1"}
        # With a route: without one, Ray's proxy finds no application, even for gRPC.
        serve.run(build(options), name="trefoil")
        asyncio.run(answering())
        ray_s = time.monotonic() - began
        ray_mib = pss_mib([one for one in _ours() if one.pid not in before])
        print(f"ready: plain {plain_s:.1f} s, Ray with {arguments.engines} engines {ray_s:.1f} s")
        print(f"PSS: plain {plain_mib:.0f} MiB, all of Ray {ray_mib:.0f} MiB")
        print("listening: {} ports, {} of them on every address".format(*listeners()), flush=True)
        rows = asyncio.run(compared())
        print("\n| request | both shells | equal |\n|---|---|---|")
        for name, what, same in rows:
            print(f"| {name} | {what} | {'yes' if same else '**no**'} |", flush=True)
        print("\n| | plain | Ray | ratio |\n|---|---|---|---|")
        for what, left, right in asyncio.run(speed(arguments.rounds)):
            print(f"| {what} | {left:.2f} | {right:.2f} | {right / left:.2f} |", flush=True)
        print("\nsessions: {} of {} calls stayed, {} engines".format(*asyncio.run(sticky())))
        print(f"SIGKILL of one engine: {asyncio.run(killed(arguments.callers, arguments.engines))}")
        changed = {**options, "flags": f"{flags} --environment second"}
        print(
            "rolling update: "
            + asyncio.run(
                updated(arguments.callers, lambda: serve.run(build(changed), name="trefoil"))
            ),
            flush=True,
        )
        print(f"load average {os.getloadavg()[0]:.1f}")
    return 0 if all(same for _, _, same in rows) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--callers", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if find_spec("ray") is None:
        print("skipped: Ray (pip install -r installers/ray/requirements.txt)")
        return 0
    if INSIDE not in os.environ:
        inside = 'ip link set lo up && exec "$0" "$@"'
        command = ["unshare", "--net", "sh", "-c", inside, sys.executable, "-m"]
        environment = {**os.environ, INSIDE: "1", "RAY_USAGE_STATS_ENABLED": "0"}
        environment |= PATIENT
        command += ["benchmarks.fleet.ray_shell", *sys.argv[1:]]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TREFOIL_RAY_DATA"] = os.environ["HOME"] = folder  # Ray writes a token to HOME
        return run(arguments, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
