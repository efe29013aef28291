"""What to look at and what to do next for each kind of problem in the status line, and the runbook
about it. The runbooks are docs/runbooks/*.md. Pure but for `page`, which reads a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from console.state.dashboard import StatusMessage


@dataclass(frozen=True, slots=True)
class NextStep:
    """Both fields are imperatives, with the keys of the console."""

    look: str
    do: str


NEXT: Mapping[str, NextStep] = {
    "drift": NextStep("see since when and where in Drift (3)", "repair that source, or rehearse"),
    "structural": NextStep("filter the predictions by client (/)", "ask the owner of that client"),
    "value": NextStep(
        "see Quality (7): one slice or all", "roll back if a deploy began it (Shift+R)"
    ),
    "latency": NextStep(
        "see which stage grew in Latency (2)", "add servers, or roll back (Shift+R)"
    ),
    "readiness": NextStep("see the failed check in Server", "drain it if its answers are wrong"),
    "replica": NextStep("see its last exit in Server", "roll back if a deploy began it (Shift+R)"),
    "skew": NextStep("see which part in Version skew (4)", "activate the right bundle (Shift+A)"),
    "telemetry": NextStep("see the reason in Server", "free space on its disk"),
    "server": NextStep("see the reason in Alerts (8)", "put the file back, or drain it (Shift+Q)"),
    "lost": NextStep("see its host: systemctl status trefoil-server", "start it again"),
    "deploy": NextStep("compare with its neighbours (P)", "roll back first (Shift+R)"),
    "clock": NextStep("compare timedatectl on both", "correct the wrong clock"),
    "rows": NextStep("compare the versions in Server", "check the address"),
    "pending": NextStep("see which in Alerts (8)", "wait: it fires or ends by itself"),
    "held": NextStep("see who knows in Alerts (8)", "ask that person, or end the silence"),
    "healthy": NextStep("see the labels that came in Quality (7)", "leave it as it is"),
    "plaintext": NextStep("see which side in Servers (1)", "serve and connect by TLS"),
}
# For a kind that only a newer server knows.
UNKNOWN = NextStep("see the reason in Alerts (8)", "look at its server in Servers (1)")
_BESIDE = Path(__file__).resolve().parent.parent / "runbooks"  # where an installed console has them
_IN_TREE = Path(__file__).resolve().parents[2] / "docs" / "runbooks"


def next_of(message: StatusMessage) -> str:
    """`see …; then …`, for every message."""
    step = NEXT.get(message.kind, UNKNOWN)
    return f"{step.look}; then {step.do}"


def address(base: str, kind: str) -> str:
    """The address of the runbook for a kind of problem; without `base`, its name in the
    documents."""
    return f"{base.rstrip('/')}/{kind}.md" if base else f"docs/runbooks/{kind}.md"


def page(kind: str) -> str:
    """The built-in runbook, as Markdown. Do not call it in the UI thread."""
    for folder in (_BESIDE, _IN_TREE):
        try:
            return (folder / f"{kind}.md").read_text(encoding="utf-8")
        except OSError:
            continue
    return f"There is no page about {kind}."


def tip(message: StatusMessage, base: str) -> str:
    """The tool tip of a message: the sentence, what to do, the runbook."""
    lines = [message.detail or message.text]
    lines.append(f"next: {next_of(message)}")
    if message.kind in NEXT:
        lines.append(f"runbook (Shift+F1): {address(base, message.kind)}")
    return "\n".join(line[:300] for line in lines)
