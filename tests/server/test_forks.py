"""The fork server: what it forks, how it ends, and how much memory it saves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from server.config import ServerConfig
from server.pool.forks import ForkedProcess, ForkServerClient, NotForkable
from server.pool.pool import Pool
from server.pool.spawn import environment_of, fork_server, replica_spawner
from server.replica.fork_server import Forkable, fingerprint
from tests.support.patience import patience
from tests.support.running import until
from tests.support.stub_replica import work

ROOT = Path(__file__).resolve().parents[2]
STUB = (sys.executable, "-m", "tests.support.stub_fork_server")
COMMAND = ("python", "-P", "child_process.py", "server.replica.main")
MIB = 1 << 20
# The goal of each further replica, and of what is its own.
MOST_BYTES = 120 * MIB


@asynccontextmanager
async def forking(*flags: str) -> AsyncIterator[ForkServerClient]:
    found = ForkServerClient({**os.environ, "PYTHONPATH": str(ROOT)}, patience(20), (*STUB, *flags))
    try:
        yield found
    finally:
        await found.close()


async def fork(forks: ForkServerClient, *what: str, **environment: str) -> ForkedProcess:
    """The front's end of its socket is closed at once: the stub does not use it."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        return await forks.fork((*COMMAND, *what), environment, theirs)


async def ended(process: ForkedProcess) -> int | None:
    return await asyncio.wait_for(process.wait(), patience(20))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


# ---- what is forked ------------------------------------------------------------------------------


async def test_a_forked_replica_is_what_a_process_of_its_own_would_be(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    async with forking() as forks:
        sibling = await fork(forks, "sleep", "60")
        process = await fork(forks, "report", str(path), ONLY="this", OMP_NUM_THREADS="3")
        assert await ended(process) == 0
        found: dict[str, Any] = json.loads(path.read_text())
        assert found["argv"][:2] == ["report", str(path)] and found["argv"][2] == "--fd"
        assert found["title"] == [*COMMAND, "report", str(path)]
        assert found["session"], "Ctrl-C in a terminal reaches the front alone"
        assert found["environment"] == {"ONLY": "this", "OMP_NUM_THREADS": "3"}
        assert found["affinity"] == sorted(os.sched_getaffinity(0))
        assert (found["sockets"], found["pidfds"]) == (1, 0), "its own socket, nothing of others"
        assert found["threads"] == 1 and "not initialised CUDA" in found["why"]
        sibling.kill()
        assert await ended(sibling) == -signal.SIGKILL


async def test_the_exit_code_arrives_and_a_pid_is_never_killed_twice() -> None:
    async with forking() as forks:
        process = await fork(forks, "exit", "7")
        assert await ended(process) == process.returncode == 7
        process.kill()  # another process may have its number by now


async def test_the_cpus_are_those_of_the_front_at_that_moment(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    path = tmp_path / "report.json"
    async with forking() as forks:
        await ended(await fork(forks, "exit", "0"))  # the fork server has them all
        os.sched_setaffinity(0, {min(mine)})
        try:
            await ended(await fork(forks, "report", str(path)))
        finally:
            os.sched_setaffinity(0, mine)
    assert json.loads(path.read_text())["affinity"] == [min(mine)]


# ---- what becomes of it --------------------------------------------------------------------------


async def test_the_death_of_the_fork_server_takes_no_replica_with_it() -> None:
    async with forking() as forks:
        first = await fork(forks, "sleep", "600")
        before = forks.pid
        os.kill(before, signal.SIGKILL)
        await until(lambda: not forks.pid, 20)
        assert alive(first.pid) and first.returncode is None
        second = await fork(forks, "exit", "3")
        assert forks.pid not in (0, before)
        assert await ended(second) == 3
        first.kill()
        # The kernel reports the code to a parent, and that is process 1 now.
        assert await ended(first) in (None, -signal.SIGKILL)
        assert not alive(first.pid)


async def test_a_stale_fork_server_is_replaced_and_still_reports_how_its_replicas_end(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "stale"
    async with forking("--stale", str(mark)) as forks:
        first = await fork(forks, "sleep", "600")
        before = forks.pid
        mark.touch()
        asked = asyncio.create_task(fork(forks, "sleep", "600"))
        await until(lambda: forks.pid not in (0, before), 20)
        mark.unlink()
        try:
            second = await asyncio.wait_for(asked, patience(20))
        except OSError:  # it looked before the mark was gone
            second = await fork(forks, "sleep", "600")
        assert forks.pid != before and alive(before) and alive(first.pid)
        for process in (first, second):
            process.kill()
            assert await ended(process) == -signal.SIGKILL
        await until(lambda: not alive(before), 20)


@pytest.mark.parametrize(
    ("flags", "why"), [(("--cuda",), "CUDA is initialised"), (("--threads", "3"), "has 3 threads")]
)
async def test_nothing_is_forked_from_threads_or_from_cuda(flags: Sequence[str], why: str) -> None:
    async with forking(*flags) as forks:
        with pytest.raises(NotForkable, match=why):
            await fork(forks, "exit", "0")


async def test_a_replica_that_cannot_be_forked_is_a_process_of_its_own(tiny_bundle: Path) -> None:
    config = ServerConfig(bundle=tiny_bundle, warm_pool=1, device="cpu", threads=1)
    async with forking("--cuda") as forks:
        pool = Pool(config, replica_spawner(config, forks))
        await asyncio.wait_for(pool.start(), patience(120))
        try:
            assert pool.facts is not None
            assert pool.facts.reasons["process"].startswith("started as a process of its own")
        finally:
            await pool.stop()


async def test_a_fork_server_that_does_not_start_is_reported_with_its_exit_code() -> None:
    async with forking("--end", "9") as forks:
        with pytest.raises(OSError, match="exit code 9"):
            await fork(forks, "exit", "0")


async def test_a_request_that_is_given_up_leaves_no_replica(tiny_bundle: Path) -> None:
    """The pool is stopped while the libraries are still imported."""
    config = ServerConfig(bundle=tiny_bundle, warm_pool=2, device="cpu", threads=1)
    forks = fork_server(config)
    assert forks is not None
    pool = Pool(config, replica_spawner(config, forks))
    starting = asyncio.create_task(pool.start())
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await pool.stop()
    starting.cancel()
    await forks.close()
    assert all(not status.pid for status in pool.statuses())
    assert asyncio.get_running_loop().time() - began < patience(5), "it waits for no import"


def test_a_changed_source_makes_a_fork_server_stale(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "a.py").write_text("1")
    before = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == before
    (tmp_path / "pipelines" / "b.py").write_text("1")
    assert fingerprint(tmp_path) != before
    assert Forkable(1, False, False, 0.0).why_not() == "this kernel has no pidfd_open"


# ---- the libraries -------------------------------------------------------------------------------

# Every way into CUDA raises: what the fork server imports must take none of them.
PRELOADED = """
import json, os, sys
import torch
def refuse(*_, **__):
    raise AssertionError("CUDA was asked for before the fork")
torch.cuda._lazy_init = torch.cuda.device_count = torch.cuda.is_available = refuse
from server.replica import fork_server, main
found = main.preload()
assert not found.cuda_initialised() and not found.changed()
before = fork_server.threads()
reading, writing = os.pipe()
if os.fork() == 0:
    torch.set_num_threads(2)
    a = torch.rand(600, 600) @ torch.rand(600, 600)
    torch.relu(torch.rand(4_000_000))
    os.write(writing, json.dumps([torch.get_num_threads(), fork_server.threads()]).encode())
    os._exit(0)
os.close(writing)
print(json.dumps([before, *json.loads(os.read(reading, 100))]))
"""


def test_importing_starts_no_thread_and_never_looks_for_cuda() -> None:
    environment = environment_of(1) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    before, asked, there = json.loads(done.stdout)
    assert before == 1, "threads do not survive a fork"
    assert asked == 2 and there >= 2, "a replica chooses its threads after the fork"


async def test_a_second_and_a_third_replica_share_most_of_the_first(tiny_bundle: Path) -> None:
    config = ServerConfig(bundle=tiny_bundle, warm_pool=3, device="cpu", threads=1)
    forks = fork_server(config)
    assert forks is not None
    pool = Pool(config, replica_spawner(config, forks))
    sums: list[int] = []
    try:
        await asyncio.wait_for(pool.start(1), patience(120))
        for count in (1, 2, 3):
            if count > 1:
                pool.open(count - 1)
            await until(lambda: pool.serving == count, 120)  # noqa: B023
            (text,) = [await pool.answer(work(f"r{count}", "is it?"))]
            assert text.answer is not None
            pids = [forks.pid, *(status.pid for status in pool.statuses())]
            sums.append(sum(pss(pid) for pid in pids))
        grown = [after - before for before, after in zip(sums, sums[1:], strict=False)]
        assert all(one <= MOST_BYTES for one in grown), grown
        await until(lambda: all(status.private_bytes for status in pool.statuses()), 60)
        for status in pool.statuses():
            assert status.private_bytes <= MOST_BYTES < status.rss_bytes
            assert status.shared_bytes > 10 * MIB
        assert pool.facts is not None
        assert f"forked from process {forks.pid}" in pool.facts.reasons["process"]
    finally:
        await pool.stop()
        await forks.close()


def pss(pid: int) -> int:
    """Bytes of its share of anonymous pages: those of files are shared with every process of this
    machine that has torch, so their share changes whenever another one ends."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("Pss_Anon:")]
    return int(kib) << 10
