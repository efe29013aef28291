"""The effect of a container's CPU quota and memory limit on threads and on the fit check: as files
of both versions, and in a real control group where one can be created."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import control_group, host
from server.replica.placement import threads_for
from tests.support.running import ROOT

CPU_V1 = Path("/sys/fs/cgroup/cpu")


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_tightest_group_up_to_the_root_decides(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pods/pod1/trefoil\n",
            "sys/fs/cgroup/pods/pod1/trefoil/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pods/pod1/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/pods/cpu.max": "800000 100000\n",
            "sys/fs/cgroup/pods/pod1/trefoil/memory.max": "max\n",
            "sys/fs/cgroup/pods/pod1/memory.max": "500000\n",
            "sys/fs/cgroup/pods/pod1/memory.current": "100000\n",
            "proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n",
        },
    )
    assert control_group.cpu_quota(root) == 1.5
    assert host.available_bytes(root) == (400_000, "left in this control group")
    if len(os.sched_getaffinity(0)) > 1:
        cores = host.cores(root)
        assert cores == (1, f"a CPU quota of 1.5 of {len(os.sched_getaffinity(0))} cores")
        assert threads_for(0, 1, cores)[1].endswith("cores / 1 replicas")


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "20000 100000\n",
            "sys/fs/cgroup/memory.max": "500000\n",
            "sys/fs/cgroup/memory.current": "600000\n",
        },
    )
    assert control_group.cpu_quota(root) == 0.2
    assert control_group.memory_left(root) == 0
    assert host.cores(root)[0] == 1, "never none"


def test_groups_of_version_1(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "1000\n",
            "sys/fs/cgroup/memory/docker/a/memory.usage_in_bytes": "400\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "7821377536\n",
        },
    )
    assert control_group.cpu_quota(root) == 3.0
    assert control_group.memory_left(root) == 600


def test_without_limits_or_without_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert control_group.cpu_quota(tmp_path) is None
    assert control_group.memory_left(tmp_path) is None
    root = written(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
    )
    assert control_group.cpu_quota(root) is None
    assert host.cores(root)[1] == f"{len(os.sched_getaffinity(0))} cores"


@pytest.fixture
def one_core() -> Iterator[Path]:
    """A real group of version 1 with the time of one core."""
    group = CPU_V1 / f"trefoil-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_server_under_a_real_quota_takes_one_thread_and_says_why(one_core: Path) -> None:
    shown = subprocess.run(
        [
            "sh",
            "-c",
            'echo $$ > "$0/cgroup.procs" && exec "$1" -c "$2"',
            str(one_core),
            sys.executable,
            "from server import host; from server.replica.placement import threads_for; "
            "print(*threads_for(0, 1, host.cores()))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    total = len(os.sched_getaffinity(0))
    assert shown.strip() == f"1 a CPU quota of 1 of {total} cores / 1 replicas"
