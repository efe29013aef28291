"""The process from which decoders are forked, with a `decode` that does what the part requests:
`python -m tests.support.probing_decoder --fd N`. Everything around it is real."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import sys
from collections.abc import Callable

from pipelines.media.limits import InputLimits
from pipelines.types import Part
from server.replica.decoding.main import main
from server.replica.decoding.nursery import Nursery

COMMAND = (sys.executable, "-m", "tests.support.probing_decoder")
FORBIDDEN: dict[str, Callable[[], object]] = {
    "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "make a file": lambda: os.open("/tmp/decoded", os.O_WRONLY | os.O_CREAT),
    "list a folder": lambda: os.listdir("/"),
    "remove a file": lambda: os.unlink("/tmp/decoded"),
    "make a socket": lambda: socket.socket(socket.AF_INET),
    "make a pair": socket.socketpair,
    "fork": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "signal its parent": lambda: os.kill(os.getppid(), 0),
    "read its parent": lambda: os.stat(f"/proc/{os.getppid()}/environ"),
    "run new code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "grow the arena": lambda: os.ftruncate(3, 1 << 40),
    "duplicate a descriptor": lambda: os.dup(2),
}


def nursery() -> Nursery:
    return Nursery(COMMAND)


def probe(part: Part, field: str, limits: InputLimits) -> str:
    asked = bytes(part.data).decode() if isinstance(part.data, bytes) else part.data
    match asked.split():
        case ["try", *_]:
            return json.dumps({name: _outcome(step) for name, step in FORBIDDEN.items()})
        case ["allocate", size]:
            return str(len(bytearray(int(size))))
        case ["spin"]:
            while True:
                pass
        case ["crash"]:
            return str(ctypes.string_at(0))
        case ["leave"]:
            os._exit(3)
        case ["raise"]:
            raise AttributeError("a bug of a decoder")
        case ["chatter"]:
            return "a" * (1 << 20)
    return f"{os.getpid()} {asked}"


def _outcome(step: Callable[[], object]) -> str:
    try:
        step()
    except OSError as error:
        return type(error).__name__
    return "done"


if __name__ == "__main__":
    main(decode_part=probe)
