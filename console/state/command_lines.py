"""The command lines that the console copies, one function for each. A test gives every line to the
parser of the command that it names. Text from a server is quoted for a shell."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence

from console.state import program
from console.state.access import ConnectionAccess
from console.state.dashboard import MEASURES, View
from console.state.query_types import FindPredictions
from console.state.timetext import iso, span_text
from server.telemetry.filters import Clause


def _given(*flags: tuple[str, str]) -> list[str]:
    return [part for flag, value in flags if value for part in (flag, value)]


def view(
    shown: View,
    span: tuple[float, float],
    panel: str,
    line: str,
    servers: Sequence[str],
    access: ConnectionAccess,
) -> str:
    """Opens the same window on any machine. `line` is the filter line of the predictions."""
    given = [(f"--{name}", value) for name, value in view_values(shown, span, panel, line).items()]
    parts = [program.name(), *_given(*given)]
    return shlex.join([*parts, *access.console_flags(), *servers])


def view_values(shown: View, span: tuple[float, float], panel: str, line: str) -> Mapping[str, str]:
    """A view as values of the console's flags; empty where the value is the default."""
    low, high = shown.brush or span
    return {
        "at": iso(high),
        "window": span_text(high - low),
        "panel": panel,
        "filter": line if panel == "predictions" else "",
        "measure": shown.measure if shown.measure != MEASURES[0] else "",
        "expect": shown.expected_stamp,
    }


def around_alert(server: str, opened_s: float, access: ConnectionAccess) -> str:
    parts = [program.name(), "--at", iso(opened_s), "--window", "30m", "--panel", "alerts"]
    return shlex.join([*parts, *access.console_flags(), server])


def skew_between(servers: Sequence[str], access: ConnectionAccess) -> str:
    return shlex.join([program.name(), "--panel", "skew", *access.console_flags(), *servers])


def status(server: str, access: ConnectionAccess) -> str:
    return shlex.join(["server", "status", "--server", server, *access.server_flags()])


def replay(server: str, prediction_id: str, access: ConnectionAccess) -> str:
    """Answers a kept payload again, with the bundle of the current folder."""
    parts = ["server", "replay", "--server", server, prediction_id, "--bundle", "."]
    return shlex.join([*parts, *access.server_flags()])


def action(
    kind: str,
    servers: Sequence[str],
    target: Sequence[str],
    reason: str,
    access: ConnectionAccess,
) -> str:
    """Does on these servers what an action of the console does. `target` has its parts: a stamp
    with the share and the minutes of a canary, the id of a prediction with a label or a stamp, the
    index of a replica."""
    fleet = len(servers) > 1
    flags = [*_given(("--reason", reason)), *access.server_flags()]
    if fleet:
        flags = [*flags, "--servers", *servers]
        parts = ["server", "fleet", kind]
    else:
        parts = ["server", kind]
        flags = ["--server", *servers, *flags]
    positional = [part for part in target if part]
    if kind == "canary":
        parts, share = ["server", "activate"], positional[1:]
        positional = positional[:1] + [
            part
            for flag, value in zip(("--canary", "--canary-minutes"), share, strict=False)
            for part in (flag, value)
        ]
    if kind == "canary-end":
        parts, positional = ["server", "rollback"], ["--canary-only"]
    if kind == "replay-against":
        stamp = "".join(positional[1:])
        parts, positional = ["server", "replay"], [*positional[:1], *_given(("--stamp", stamp))]
    if kind == "verify":
        parts = ["server", "status", "--verify"]
    if kind in ("verify", "replay", "replay-against"):
        flags = ["--server", *servers, *access.server_flags()]
    if kind == "feedback":
        flags = ["--server", *servers, *_given(("--source", reason)), *access.server_flags()]
    return shlex.join([*parts, *positional, *flags])


def export(clauses: Sequence[Clause], span: tuple[float, float]) -> str:
    """Writes the same predictions to a file, on the server's own machine. That is one server, so
    the terms that choose among servers are left out."""
    line = FindPredictions(tuple(clauses), span, {}).server_line
    parts = ["server", "export", "--since", iso(span[0]), "--until", iso(math.ceil(span[1]))]
    return shlex.join([*parts, *_given(("--filter", line)), "--out", "-"])
