"""The systemd unit under a real systemd: a Debian 12 booted in a container without network, in
which install.sh installs and the unit runs, is stopped, refused and hung."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.installers.debian import unpack
from tests.installers.image import Workshop
from tests.installers.tools import (
    GPU_HOST,
    ROOT,
    Failed,
    Skipped,
    attempt,
    need,
    need_root,
    run,
    tail,
)

NAME = "trefoil-boot"
UNIT = "trefoil-server"
PACKAGES = ("systemd", "systemd-sysv", "python3.11-venv")
BOOT_WITHIN_S = 120.0
READY_WITHIN_S = 300.0
QUICK_WATCHDOG_S = 10
SERVER = "/opt/trefoil/current/bin/server"


class Machine:
    """`pid` is its process 1 as seen from here."""

    def __init__(self, pid: int) -> None:
        self._pid = str(pid)

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        inside = ("nsenter", "--target", self._pid, "--all", "--root", "--wd")
        return attempt([*inside, "env", "-i", "PATH=/usr/bin:/usr/sbin", *command], within_s=300)

    def call(self, *command: str) -> str:
        done = self.attempt(*command)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {tail(done)}\n{self.journal()}")
        return done.stdout.strip()

    def shows(self, name: str) -> str:
        return self.call("systemctl", "show", UNIT, "--value", "-p", name)

    def journal(self) -> str:
        return tail(self.attempt("journalctl", "--no-pager", "-n", "30", "-o", "cat"))

    def until(self, happened: Callable[[], object], what: str, within_s: float) -> None:
        began = time.monotonic()
        while not happened():
            if time.monotonic() - began > within_s:
                raise Failed(f"not {what} within {within_s:g} s\n{self.journal()}")
            time.sleep(0.2)


def starts_under_systemd(workshop: Workshop) -> str:
    need_root()
    need("systemd-nspawn", "nsenter")
    wheels = workshop.wheels()
    root = _root(workshop)
    try:
        _install(root, wheels)
        with _booted(root) as machine:
            return "; ".join(
                (_becomes_active(machine), _stops(machine), _hangs(machine), _is_refused(machine))
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _becomes_active(machine: Machine) -> str:
    """`systemctl start` waits until READY=1: what it waited for is in the journal by then."""
    began = time.monotonic()
    machine.call("systemctl", "start", "--no-block", UNIT)
    machine.until(
        lambda: machine.shows("StatusText").startswith("replica "), "loading", READY_WITHIN_S
    )
    loading = machine.shows("ActiveState")
    refused = machine.attempt(SERVER, "probe").returncode
    if (loading, refused) != ("activating", 1):
        raise Failed(f"while loading the unit is {loading} and the probe ends with {refused}")
    machine.until(lambda: machine.shows("ActiveState") == "active", "active", READY_WITHIN_S)
    took_s = time.monotonic() - began
    machine.call(SERVER, "probe")
    answer = json.loads(machine.call(SERVER, "predict", "--json", "--text", "smoke at the drive"))
    return f"activating until the probe passed, active after {took_s:.0f} s, {answer['label']}"


def _stops(machine: Machine) -> str:
    machine.call("systemctl", "stop", UNIT)
    result, code = machine.shows("Result"), machine.shows("ExecMainStatus")
    if (result, code) != ("success", "0"):
        raise Failed(f"stopped with {result}, {code}\n{machine.journal()}")
    return "stopped well"


def _hangs(machine: Machine) -> str:
    """An event loop that does not turn: the watchdog aborts it, and it is started again."""
    machine.call("mkdir", "-p", f"/run/systemd/system/{UNIT}.service.d")
    drop_in = f"/run/systemd/system/{UNIT}.service.d/quick.conf"
    lines = f"[Service]\\nWatchdogSec={QUICK_WATCHDOG_S}\\nRestartSec=1\\n"
    machine.call("sh", "-c", f"printf '{lines}' > {drop_in}")
    machine.call("systemctl", "daemon-reload")
    machine.call("systemctl", "start", UNIT)
    machine.call("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    machine.until(lambda: machine.shows("NRestarts") == "1", "restarted", 120)
    machine.until(lambda: machine.shows("ActiveState") == "active", "active", READY_WITHIN_S)
    machine.call("systemctl", "stop", UNIT)
    return "hung, it was aborted and came back"


def _is_refused(machine: Machine) -> str:
    """What is refused once stays down, with its reason shown."""
    machine.call("sh", "-c", "echo 'TREFOIL_FLAGS=--bundle /nowhere' > /etc/trefoil/server.env")
    machine.attempt("systemctl", "start", UNIT)
    time.sleep(3)
    shown = {name: machine.shows(name) for name in ("ActiveState", "ExecMainStatus", "NRestarts")}
    if shown != {"ActiveState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}:
        raise Failed(f"a refused bundle leaves it {shown}")
    if "refused: /nowhere is not a bundle" not in machine.journal():
        raise Failed(f"the journal does not have the reason\n{machine.journal()}")
    return "a refused bundle ends with 78 and is not tried again"


# ---- the machine ---------------------------------------------------------------------------------


def _root(workshop: Workshop) -> Path:
    root = workshop.folder / "booted"
    shutil.rmtree(root, ignore_errors=True)
    unpack(workshop.debian(*PACKAGES), root)
    return root


def _install(root: Path, wheels: Path) -> None:
    """install.sh as an administrator runs it, but with the wheels that were fetched before."""
    shared = [f"--bind-ro={ROOT}:/source", f"--bind-ro={wheels}:/wheels"]
    settings = ["--setenv=PIP_NO_INDEX=1", "--setenv=PIP_FIND_LINKS=/wheels"]
    command = ["systemd-nspawn", *_NSPAWN, "-D", str(root), *shared, *settings]
    run([*command, f"/source/{GPU_HOST.relative_to(ROOT)}/install.sh"])


_NSPAWN = ("--quiet", "--register=no", "--keep-unit", f"--machine={NAME}")


@contextmanager
def _booted(root: Path) -> Iterator[Machine]:
    command = ["systemd-nspawn", *_NSPAWN, "--private-network", "--boot", "-D", str(root)]
    log = root.parent / "boot.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        machine = Machine(_first_child(process, log))
        running = ("running", "degraded")
        machine.until(
            lambda: machine.attempt("systemctl", "is-system-running").stdout.strip() in running,
            "booted",
            BOOT_WITHIN_S,
        )
        yield machine
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _first_child(process: subprocess.Popen[bytes], log: Path) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for _ in range(100):
        if process.poll() is not None:
            raise Skipped(f"no systemd can be booted here: {log.read_text(errors='replace')}")
        for child in map(int, children.read_text().split()):
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return child
        time.sleep(0.1)
    raise Failed(f"no process 1 to be seen\n{log.read_text(errors='replace')}")
