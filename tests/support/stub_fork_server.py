"""A fork server without libraries: `python -m tests.support.stub_fork_server --fd N`.

A forked process does what its arguments name: `exit N`, `sleep S`, or `report PATH`, which writes
the state of the process as JSON and ends. The file given by --stale makes the fork server stale
while it exists.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from server.replica.fork_server import Forkable, ForkServer, threads


def begin(argv: Sequence[str], why: str) -> None:
    kind, value = argv[0], argv[1]
    if kind == "exit":
        os._exit(int(value))
    if kind == "report":
        Path(value).write_text(json.dumps(report(argv, why)))
        return
    time.sleep(float(value))


def report(argv: Sequence[str], why: str) -> dict[str, object]:
    files = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    links = [str(file.readlink()) for file in files if file.is_symlink()]
    return {
        "argv": list(argv),
        "why": why,
        "session": os.getsid(0) == os.getpid(),
        "environment": dict(os.environ),
        "affinity": sorted(os.sched_getaffinity(0)),
        "title": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "sockets": sum(link.startswith("socket:") for link in links),
        "pidfds": sum("pidfd" in link for link in links),
        "threads": threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--room", default="")
    parser.add_argument("--stale", type=Path, default=Path("/nowhere"))
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--end", type=int)
    arguments = parser.parse_args()
    if arguments.end is not None:
        raise SystemExit(arguments.end)

    def state() -> Forkable:
        return Forkable(arguments.threads, arguments.cuda, True, 0.0)

    def stale() -> str:
        return "changed" if arguments.stale.exists() else ""

    control = socket.socket(fileno=arguments.fd)
    ForkServer(control, begin, state, stale).serve()


if __name__ == "__main__":
    main()
