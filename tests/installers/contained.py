"""The image as a container: read-only, without privileges or network, from start to stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.installers.image import Workshop
from tests.installers.tools import GPU_HOST, Failed, attempt, need, run, tail

NAME = "trefoil-check"
USER = 10001
READY_WITHIN_S = 300.0
END_WITHIN_S = 60.0
# Beside the package, so every image has them.
SAMPLES = "/opt/trefoil/lib/python3.11/site-packages/pipelines/triage/samples"
QUESTION = (
    *("--text", "the vibration at the oven went up again, please check"),
    *("--image", f"{SAMPLES}/station.jpg"),
    *("--audio", f"{SAMPLES}/machine.wav"),
)


class Container:
    def __init__(self, state: Path, log: Path, process: subprocess.Popen[bytes]) -> None:
        self._state = state
        self._log = log
        self.process = process

    @property
    def shown(self) -> str:
        return self._log.read_text(errors="replace")

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        return attempt(["runc", "--root", self._state, "exec", NAME, *command], within_s=120)

    def call(self, *command: str) -> str:
        done = self.attempt(*command)
        if done.returncode:
            raise Failed(f"{' '.join(command)}: {tail(done)}\n{self.shown}")
        return done.stdout

    def stop(self) -> int:
        run(["runc", "--root", self._state, "kill", NAME, "TERM"])
        return self.process.wait(END_WITHIN_S)


def serves_read_only(workshop: Workshop) -> str:
    need("runc", "umoci")
    settings = workshop.settings("trefoil")
    with _container(workshop, settings) as container:
        ready_s, probes = _until_ready(container, _health_check())
        answer = json.loads(container.call("server", "predict", "--json", *QUESTION))
        facts = json.loads(container.call("pipelines", "inspect", "--json", "/bundle"))
        if answer["stamp"] != facts["stamp"]:
            raise Failed(f"answered by {answer['stamp']}, baked in is {facts['stamp']}")
        _is_confined(container)
        began = time.monotonic()
        code = container.stop()
        if code != 0 or "drained" not in container.shown:
            raise Failed(f"SIGTERM ended it with {code}\n{container.shown}")
    return (
        f"ready after {ready_s:.1f} s (health check refused {probes} times before); "
        f"text, image and audio: {answer['label']} {answer['confidence']} "
        f"from {answer['stamp_name']}; stopped well in {time.monotonic() - began:.1f} s"
    )


def _health_check() -> list[str]:
    """Of the Containerfile: an image in OCI's format, which is built here, has no place for it."""
    text = (GPU_HOST / "Containerfile").read_text()
    found = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", text, re.M)
    if found is None:
        raise Failed("the Containerfile lost its health check")
    command: list[str] = json.loads(found[1])
    return command


def _until_ready(container: Container, health_check: list[str]) -> tuple[float, int]:
    """(seconds until all replicas were ready, health checks that were refused before the first
    one was)."""
    refused, began, content = 0, time.monotonic(), False
    while time.monotonic() - began < READY_WITHIN_S:
        if container.process.poll() is not None:
            raise Failed(f"ended with {container.process.returncode}\n{container.shown}")
        content = content or container.attempt(*health_check).returncode == 0
        if content and not re.search(r"replica \d+ on \S+ ready", container.shown):
            raise Failed(f"the health check was content before the server\n{container.shown}")
        found = re.search(r"ready on \S+ after ([0-9.]+) s", container.shown)
        if content and found is not None:
            return float(found[1]), refused
        refused += not content
        time.sleep(0.1)
    raise Failed(f"not ready within {READY_WITHIN_S:g} s\n{container.shown}")


def _is_confined(container: Container) -> None:
    status = container.call("cat", "/proc/1/status")
    facts = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.M))
    expected = {"Uid": "\t".join([str(USER)] * 4), "CapEff": "0" * 16, "CapBnd": "0" * 16}
    expected["NoNewPrivs"] = "1"
    wrong = {name: facts[name] for name, value in expected.items() if facts[name] != value}
    if wrong:
        raise Failed(f"process 1 has {wrong}")
    for path in ("/stray", "/bundle/stray", "/opt/trefoil/stray"):
        if "Read-only file system" not in container.attempt("touch", path).stderr:
            raise Failed(f"{path} could be written")
    # What telemetry wrote proves that the volume can be.
    if "telemetry is kept in /data" not in container.shown:
        raise Failed(f"nothing is kept in /data\n{container.shown}")


@contextmanager
def _container(workshop: Workshop, settings: dict[str, Any]) -> Iterator[Container]:
    bundle = workshop.unpack("trefoil")
    data = workshop.folder / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, USER, USER)
    config = json.loads((bundle / "config.json").read_text())
    _confine(config, data, [*settings["Entrypoint"], *(settings.get("Cmd") or []), "--warm-pool=2"])
    (bundle / "config.json").write_text(json.dumps(config))
    state, log = workshop.folder / "runc", workshop.folder / "container.log"
    command = ["runc", "--root", str(state), "run", "--bundle", str(bundle), NAME]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        yield Container(state, log, process)
    finally:
        if process.poll() is None:
            attempt(["runc", "--root", state, "kill", NAME, "KILL"])
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_WITHIN_S)
            process.send_signal(signal.SIGKILL)
        attempt(["runc", "--root", state, "delete", "--force", NAME])
        shutil.rmtree(bundle)
        shutil.rmtree(data)


def _confine(config: dict[str, Any], data: Path, arguments: list[str]) -> None:
    """As compose.yaml confines it: user, root and namespaces come from the image and from umoci."""
    process = config["process"]
    if (process["user"]["uid"], process["user"]["gid"]) != (USER, USER):
        raise Failed(f"the image runs as {process['user']}")
    sets = ("bounding", "effective", "inheritable", "permitted", "ambient")
    process |= {"args": arguments, "terminal": False, "noNewPrivileges": True}
    process["capabilities"] = {name: [] for name in sets}
    config["root"]["readonly"] = True
    config["mounts"] = [m for m in config["mounts"] if m["destination"] not in ("/data", "/tmp")]
    config["mounts"] += [
        {"destination": "/data", "type": "none", "source": str(data), "options": ["bind", "rw"]},
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["noexec", "nosuid", "nodev", "mode=1777", "size=64m"],
        },
    ]
