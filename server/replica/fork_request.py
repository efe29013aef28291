"""The messages between the front and the fork server: JSON, one message for each packet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

MODULE = "server.replica.fork_server"
MESSAGE_BYTES = 1 << 17
# Room in the command line of the fork server: a replica replaces it with its own title.
TITLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Fork:
    """The request for one replica; the answer has the same `number`.

    `command` is the command line of the replica as a separate process. Environment and CPUs are the
    front's at the time of the request.
    """

    number: int
    command: tuple[str, ...]
    environment: Mapping[str, str]
    affinity: tuple[int, ...]

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def of(data: bytes) -> Fork:
        found = json.loads(data)
        return Fork(
            found["number"],
            tuple(found["command"]),
            found["environment"],
            tuple(found["affinity"]),
        )
