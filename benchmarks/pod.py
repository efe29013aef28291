"""Checks the contract of installers/kubernetes' pod, with runc on this machine:

    python -m benchmarks.pod [--seconds 15] [--repeats 2]

Needs root, runc and two cores. The container has what deployment.yaml gives it (user, read-only
root, no capabilities, /data, /tmp in memory, the arguments), the time of one core and a memory
limit; it uses this machine's root file system, read-only, and its network. It has priority over
other work, so that only its quota limits it. The output shows how many threads it uses and why,
whether replicas that do not fit are refused, and how often the kernel throttles it under load, with
its own choice of threads and with threads set by hand. Exits 1 when the contract is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.serve import ROOT, LoadClient
from proto import observe_pb2
from server.commands.client import CommandConnection
from trefoil import TrefoilError

DEPLOYMENT = ROOT / "installers/kubernetes/base/deployment.yaml"
ADDRESS = "127.0.0.1:18466"
ROOMY_MIB, TIGHT_MIB = 3072, 900
CALLERS = 8
READY_S = 900.0  # on a machine with much other work
THREADS = {"automatic": (), "1": ("--threads", "1"), "2": ("--threads", "2")}
SHARES = 262_144  # the maximum: if other work keeps it from its quota, the result shows nothing
WITHIN = 0.10  # of the time share for which a hand-set server is throttled
SYSTEM = ("/usr", "/etc", "/opt")
LINKS = ("bin", "lib", "lib64", "sbin")


@dataclass(frozen=True, slots=True)
class Stopped:
    """The kernel's counts for a group: periods of 100 ms, throttled periods, the throttled time
    (summed over cores), the CPU time used, and the clock."""

    periods: int
    throttled: int
    seconds: float
    used_s: float
    clock_s: float

    def since(self, before: Stopped) -> Stopped:
        return Stopped(
            self.periods - before.periods,
            self.throttled - before.throttled,
            self.seconds - before.seconds,
            self.used_s - before.used_s,
            self.clock_s - before.clock_s,
        )


def container() -> dict[str, Any]:
    """The server's container of the Deployment, with its pod's security context."""
    pod = yaml.safe_load(DEPLOYMENT.read_text())["spec"]["template"]["spec"]
    (found,) = pod["containers"]
    return {**found, "pod": pod["securityContext"], "volumes": pod["volumes"]}


def specification(folder: Path, group: str, memory_mib: int, flags: Sequence[str]) -> None:
    """Writes config.json of the OCI runtime, and the folders it needs."""
    asked = container()
    root = folder / "root"
    root.mkdir()
    for name in LINKS:
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(Path("/", name)))
    user = {"uid": asked["pod"]["runAsUser"], "gid": asked["pod"]["runAsGroup"]}
    data = folder / "data"
    data.mkdir()
    os.chown(data, user["uid"], user["gid"])
    assert asked["securityContext"]["capabilities"]["drop"] == ["ALL"]
    arguments = [one for one in asked["args"] if not one.startswith(("--listen", "--prometheus"))]
    arguments = [one.replace("$(POD_NAME)", "pod-1") for one in arguments]
    (memory,) = (v["emptyDir"] for v in asked["volumes"] if v["name"] == "tmp")
    size = memory["sizeLimit"].replace("Mi", "m")
    command = [sys.executable, "-m", "server.main", *arguments, "--listen", ADDRESS]
    mounts = [
        *(_bound(Path(path)) for path in sorted(_readable())),
        {"destination": "/data", "type": "bind", "source": str(data), "options": ["rbind", "rw"]},
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", f"size={size}", "mode=1777"],
        },
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
    ]
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": user,
            "args": [*command, "--data", "/data", *flags],
            "cwd": str(ROOT),
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1"],
            "noNewPrivileges": not asked["securityContext"]["allowPrivilegeEscalation"],
            "capabilities": {},
        },
        "root": {
            "path": str(root),
            "readonly": asked["securityContext"]["readOnlyRootFilesystem"],
        },
        "hostname": "pod-1",
        "mounts": mounts,
        "linux": {
            "cgroupsPath": f"/{group}",
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "resources": {
                "cpu": {"quota": 100_000, "period": 100_000, "shares": SHARES},
                "memory": {"limit": memory_mib << 20},
                "pids": {"limit": 1024},
            },
        },
    }
    (folder / "config.json").write_text(json.dumps(spec))


def _readable() -> set[str]:
    """The paths that Python and the server read."""
    paths = {str(ROOT), sys.prefix, sys.base_prefix, *SYSTEM, *sys.path}
    found = {str(Path(path).resolve()) for path in paths if path and Path(path).is_dir()}
    return {one for one in found if not any(one.startswith(f"{other}/") for other in found)}


def _bound(path: Path) -> dict[str, Any]:
    return {
        "destination": str(path),
        "type": "bind",
        "source": str(path),
        "options": ["rbind", "ro", "nosuid", "nodev"],
    }


@contextmanager
def pod(memory_mib: int, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """(the runc process, the group's name, its log), from start to end."""
    with tempfile.TemporaryDirectory() as name:
        folder, group = Path(name), f"trefoil-{os.getpid()}"
        folder.chmod(0o755)
        specification(folder, group, memory_mib, flags)
        with (folder / "log").open("w") as log:
            command = ["runc", "run", "--bundle", str(folder), group]
            process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
        try:
            yield process, group, folder / "log"
        finally:
            subprocess.run(["runc", "kill", group, "TERM"], capture_output=True)
            try:
                process.wait(45)
            except subprocess.TimeoutExpired:
                subprocess.run(["runc", "kill", group, "KILL"], capture_output=True)
                process.wait(10)
            subprocess.run(["runc", "delete", "--force", group], capture_output=True)


def stopped(group: str) -> Stopped:
    """The counts from version 2 or 1, whose hierarchies may be mounted separately."""
    mount = Path("/sys/fs/cgroup")
    if (mount / group / "cpu.stat").exists():
        found = _counters(mount / group / "cpu.stat")
        seconds, used_s = found["throttled_usec"] / 1e6, found["usage_usec"] / 1e6
    else:
        found = _counters(mount / "cpu" / group / "cpu.stat")
        used = (mount / "cpuacct" / group / "cpuacct.usage").read_text()
        seconds, used_s = found["throttled_time"] / 1e9, int(used) / 1e9
    now = time.monotonic()
    return Stopped(found["nr_periods"], found["nr_throttled"], seconds, used_s, now)


def _counters(file: Path) -> dict[str, int]:
    return {name: int(count) for name, count in map(str.split, file.read_text().splitlines())}


def last_lines(log: Path) -> str:
    return log.read_text()[-3000:]


async def ready(process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """The server's reasons, once it takes traffic."""
    began = time.monotonic()
    async with CommandConnection(ADDRESS) as server:
        while True:
            try:
                snapshot = (await server.state(5.0)).snapshot
                if snapshot.state == observe_pb2.READY:
                    return dict(snapshot.reasons)
            except TrefoilError:
                pass
            if process.poll() is not None or time.monotonic() - began > READY_S:
                raise SystemExit(last_lines(log))
            await asyncio.sleep(0.5)


def share(found: Stopped) -> float:
    return found.throttled / max(1, found.periods)


def measured(load: LoadClient, flags: Sequence[str], seconds: float) -> tuple[str, Stopped, float]:
    """(its reason for the number of threads, the kernel's counts, rows a second)."""
    with pod(ROOMY_MIB, *flags) as (process, group, log):
        reasons = asyncio.run(ready(process, log))
        load.measure([ADDRESS], CALLERS, 3.0, "unary")
        before = stopped(group)
        found = load.measure([ADDRESS], CALLERS, seconds, "unary")
        if found["failed"]:
            raise SystemExit(f"{found['failed']:.0f} requests failed: {last_lines(log)}")
        return reasons.get("threads", ""), stopped(group).since(before), found["rps"]


def too_small() -> tuple[int, str]:
    """Exit code and last line of a pod whose replicas do not fit into its memory."""
    with pod(TIGHT_MIB, "--warm-pool", "4") as (process, _, log):
        code = process.wait(120)
        lines = [line for line in log.read_text().splitlines() if "refused" in line]
        return code, lines[-1] if lines else log.read_text()[-300:]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("runc") is None:
        raise SystemExit("needs runc (Debian: runc)")
    code, line = too_small()
    print(f"memory limit {TIGHT_MIB} MiB, 4 replicas: exit {code}: {line}")
    good = code == 78 and "control group" in line
    shares: dict[str, list[float]] = {}
    print("| threads | reason | used of a core | stopped in | for | rows/s |")
    print("|---|---|---|---|---|---|")
    with LoadClient() as load:
        for _, (name, flags) in product(range(arguments.repeats), THREADS.items()):
            reason, found, rate = measured(load, flags, arguments.seconds)
            shares.setdefault(name, []).append(share(found))
            print(
                f"| {name} | {reason} | {found.used_s / found.clock_s:.0%} "
                f"| {found.throttled} of {found.periods} periods ({share(found):.0%}) "
                f"| {found.seconds:.2f} s | {rate:.1f} |",
                flush=True,
            )
            if name == "automatic":
                good = good and reason.startswith("a CPU quota of 1 of ")
    means = {name: sum(found) / len(found) for name, found in shares.items()}
    apart = means["automatic"] - means["1"]
    print(f"automatic against 1 by hand: {apart:+.1%} of the periods (limit {WITHIN:.0%})")
    print(f"load average {os.getloadavg()[0]:.1f}")
    return 0 if good and abs(apart) <= WITHIN else 1


if __name__ == "__main__":
    sys.exit(main())
