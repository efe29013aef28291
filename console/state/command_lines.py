"""The command lines that the console copies, one function for each. A test gives every line to the
parser of the command that it names. Whatever came from a server is quoted for a shell."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from console.state import program
from console.state.dashboard import MEASURES, View
from console.state.timetext import iso, span_text
from server.telemetry.filters import Clause


@dataclass(frozen=True, slots=True)
class Reach:
    """How the servers are reached. The files are paths, empty where none is used."""

    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    token_file: str = ""

    def of_console(self) -> list[str]:
        flags = ["--tls"] if self.tls else []
        files = (("--ca", self.ca), ("--cert", self.cert), ("--key", self.key))
        return flags + _given(*files, ("--token-file", self.token_file))

    def of_server(self) -> list[str]:
        """The `server` commands call over TLS only with a CA file of their own."""
        if not self.ca:
            return []
        files = (("--tls-ca", self.ca), ("--tls-cert", self.cert), ("--tls-key", self.key))
        return _given(*files, ("--token-file", self.token_file))


def _given(*flags: tuple[str, str]) -> list[str]:
    return [part for flag, value in flags if value for part in (flag, value)]


def view(
    shown: View,
    span: tuple[float, float],
    panel: str,
    line: str,
    servers: Sequence[str],
    reach: Reach,
) -> str:
    """Opens the same window anywhere. `line` is the filter line of the predictions."""
    low, high = shown.brush or span
    parts = [program.name(), "--at", iso(high), "--window", span_text(high - low)]
    parts += ["--panel", panel]
    parts += _given(("--filter", line if panel == "predictions" else ""))
    parts += _given(("--measure", shown.measure if shown.measure != MEASURES[0] else ""))
    parts += _given(("--expect", shown.expected_stamp))
    return shlex.join([*parts, *reach.of_console(), *servers])


def around_alert(server: str, opened_s: float, reach: Reach) -> str:
    parts = [program.name(), "--at", iso(opened_s), "--window", "30m", "--panel", "alerts"]
    return shlex.join([*parts, *reach.of_console(), server])


def skew_between(servers: Sequence[str], reach: Reach) -> str:
    return shlex.join([program.name(), "--panel", "skew", *reach.of_console(), *servers])


def status(server: str, reach: Reach) -> str:
    return shlex.join(["server", "status", "--server", server, *reach.of_server()])


def replay(server: str, prediction_id: str, reach: Reach) -> str:
    """Answers a kept payload again, with the bundle of the current folder."""
    parts = ["server", "replay", "--server", server, prediction_id, "--bundle", "."]
    return shlex.join([*parts, *reach.of_server()])


def export(clauses: Sequence[Clause], span: tuple[float, float]) -> str:
    """Writes the same predictions where the server keeps them. That is one server, so the terms
    that choose among several are left out."""
    line = " ".join(clause.term for clause in clauses if clause.name != "server")
    parts = ["server", "export", "--since", iso(span[0]), "--until", iso(math.ceil(span[1]))]
    return shlex.join([*parts, *_given(("--filter", line)), "--out", "-"])
