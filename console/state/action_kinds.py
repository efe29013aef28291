"""The actions that an operator can start on a server: what will happen and where, the role needed,
the command that does the same. Pure. `console.feed.action_calls` performs them,
`console.panels.action_dialog` asks before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from console.state import command_lines
from console.state.access import ConnectionAccess
from console.state.dashboard import TimelineEvent
from console.state.domain import Action
from console.state.sanitize import short

KEPT = (
    "acknowledge",
    "silence",
    "annotate",
)  # sent when the server is back; whatever else is sent now or never
NOW_S = 10.0  # an action that waited longer than this for its servers is no longer sent
# Separators of the parts of a target: prediction id and label; stamp, share and minutes; id and
# times of a note.
LABEL = "\t"
SHARES = (0.05, 0.1, 0.25, 0.5)  # shares of the sessions for a canary
MINUTES = (10, 30, 60, 240)


@dataclass(frozen=True, slots=True)
class ActionKind:
    """One kind of action. `role` is the role that its credential needs. `whole`: the fleet can do
    it as one. `happens` completes "{who} …"."""

    name: str
    title: str
    verb: str
    happens: str
    role: str
    whole: bool = False
    # Roles of the bundles to choose from; "stored": every bundle that does not serve.
    bundles: tuple[str, ...] = ()
    prediction: bool = False  # the action is about one prediction


KINDS = {
    kind.name: kind
    for kind in (
        ActionKind(
            "rollback",
            "Roll back",
            "rolled back",
            "switches back to the previous bundle: at once while it is warm, else after loading "
            "it. While a canary runs, only the canary is ended. Requests in flight are answered.",
            "admin",
            whole=True,
        ),
        ActionKind(
            "activate",
            "Activate a loaded bundle",
            "activated",
            "sends all sessions to this bundle, at once. The previous one stays warm for a while, "
            "so that a rollback takes no time.",
            "admin",
            whole=True,
            bundles=("loaded", "standby", "canary"),
        ),
        ActionKind(
            "canary",
            "Start a canary",
            "gave a canary its share",
            "gives this bundle a share of the sessions. A worse bundle is rolled back by itself, a "
            "good one is promoted when the time is over, one with too little evidence is held.",
            "admin",
            bundles=("loaded",),
        ),
        ActionKind(
            "canary-end",
            "End the canary",
            "ended its canary",
            "takes its share back from the canary, whose sessions return to the bundle that "
            "serves. Without a canary nothing happens.",
            "admin",
        ),
        ActionKind(
            "rehearse",
            "Rehearse a bundle",
            "rehearsed",
            "replays up to 500 kept payloads through this bundle, which is loaded beside the other "
            "if it is not yet, and judges it: promote, hold or refuse. Callers are not affected, "
            "except that it uses idle cores.",
            "admin",
            bundles=("stored",),
        ),
        ActionKind(
            "restart",
            "Restart a replica",
            "restarted a replica",
            "sends this replica no more rows, lets it finish those it holds, ends its process and "
            "starts it again. The others serve meanwhile; requests wait if it is the only one.",
            "admin",
        ),
        ActionKind(
            "drain",
            "Drain",
            "drained",
            "refuses new work, answers what it accepted, then exits. The console cannot start it.",
            "admin",
        ),
        ActionKind(
            "verify",
            "Verify now",
            "verified",
            "has every replica compare each byte, in memory and on disk, with what it loaded. This "
            "takes as long as hashing the bundle twice; the server continues to answer.",
            "observe",
        ),
        ActionKind(
            "feedback",
            "Give feedback on this prediction",
            "labelled",
            "joins this label to the prediction. It counts in accuracy, calibration and value; a "
            "later label corrects it.",
            "predict",
            prediction=True,
        ),
        ActionKind(
            "replay",
            "Replay this prediction",
            "replayed",
            "answers the kept payload once more, as one more request. The stored prediction stays "
            "as it is.",
            "admin",
            prediction=True,
        ),
        ActionKind(
            "replay-against",
            "Replay this prediction against another stamp",
            "replayed",
            "answers the kept payload by the bundle chosen, which is loaded there. The answer is "
            "neither counted nor recorded.",
            "admin",
            bundles=("serves", "loaded", "standby", "canary"),
            prediction=True,
        ),
    )
}
_ALL_OR_NONE = " All of them or none: where one fails, those that switched go back."


def sentence(kind: ActionKind, names: Sequence[str]) -> str:
    """What will happen, on which servers."""
    if len(names) == 1:
        return f"{names[0]} {kind.happens}"
    return f"Each of {len(names)} servers ({', '.join(names)}) {kind.happens}{_ALL_OR_NONE}"


def command(action: Action, access: ConnectionAccess) -> str:
    """The command line that does the same."""
    return command_lines.action(
        action.kind, action.server.split(), action.target.split(LABEL), action.note, access
    )


def refusal(kind: ActionKind, why: str) -> str:
    """A refusal for lack of a role, as a sentence for the person with the credential."""
    return f"your credential may not do that: it needs the role {kind.role} ({why})"


def event(action: Action, names: Sequence[str], ahead_s: float) -> TimelineEvent:
    """`kim rolled back gpu-03.lon: p99 doubled`, as an event that is done, on its way or
    refused."""
    kind = KINDS[action.kind]
    who = ", ".join(names)
    what = f"{who} {kind.name} asked for by {action.actor}"
    if action.state == "done":
        what = f"{who} {kind.verb} by {action.actor}"
    elif action.state == "refused":
        what = f"{who} not {kind.verb}, asked by {action.actor}"
    text = f"{what}: {action.note}" if action.note else what
    text += f" · {action.detail}" if action.detail else ""
    severity = {"done": "info", "refused": "warning"}.get(action.state, "unknown")
    single = action.server.split()[0] if action.server else ""
    at_s = action.at_s + ahead_s
    return TimelineEvent(at_s, severity, text, single, "action", str(action.id), "fleet")


def outcome(action: Action, names: Sequence[str]) -> str:
    """The outcome as a notice in the footer."""
    kind = KINDS.get(action.kind)
    who = ", ".join(names)
    if kind is None or action.state != "done":
        title = kind.title.lower() if kind is not None else action.kind
        return f"{title} of {who} refused: {action.detail}"
    return f"{who} {kind.verb}" + (f": {action.detail}" if action.detail else "")


def loaded_text(stamp: str, name: str, roles: Sequence[str]) -> str:
    """A loaded bundle, as the dialog's list shows it."""
    return f"{name or short(stamp)} · {stamp[:12]} · {', '.join(roles)}"
