"""Checks the requests of trefoil.v1.Observe field by field. All functions raise Refused."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from proto import observe_pb2 as pb
from server.api.feedback_messages import EARLIEST_MS
from server.request.status import Refused, bad_input
from server.telemetry.rows import AnnotationRow
from server.telemetry.store.history import TimeSpan
from server.telemetry.store.worst_slices import MEASURES

MOST_IDS = 1000
LONGEST_TEXT = 1000  # characters of a matcher, note or reason
LONGEST_SILENCE_S = 366 * 86_400.0
LONGEST_NOTE = 500  # characters of an annotation
LONGEST_NOTE_S = 90 * 86_400.0  # longest span of an annotation
AHEAD_S = 86_400.0  # how far in the future the span of an annotation may be
ANNOTATION_ID = re.compile(r"[0-9a-f]{16,64}")
KINDS = (
    "feature",
    "latency",
    "profile",
    "drift",
    "alert",
    "silence",
    "deploy",
    "annotation",
    "quality",
    "prediction",
)


def span_of(request: Any, now: float) -> TimeSpan:
    """The span of any request with from_unix_ms and to_unix_ms; an end of 0 is now."""
    since, until = request.from_unix_ms, request.to_unix_ms
    if since < 0:
        raise Refused(bad_input("from_unix_ms", "NOT_A_TIME", f"{since} is before 1970"))
    if until and until <= since:
        text = f"{until} is not after from_unix_ms, {since}"
        raise Refused(bad_input("to_unix_ms", "EMPTY_SPAN", text))
    return TimeSpan(since / 1000, until / 1000 if until else now + 1.0)


def kinds_of(kinds: Collection[str]) -> tuple[str, ...]:
    if len(kinds) > len(KINDS):
        text = f"{len(kinds)} kinds; only {len(KINDS)} exist"
        raise Refused(bad_input("kinds", "TOO_MANY_KINDS", text))
    for index, kind in enumerate(kinds):
        if kind not in KINDS:
            text = f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}"
            raise Refused(bad_input(f"kinds[{index}]", "UNKNOWN_KIND", text))
    return tuple(kinds)


def measure_of(measure: str) -> str:
    if measure and measure not in MEASURES:
        text = f"unknown measure {measure!r}; the measures are {', '.join(MEASURES)}"
        raise Refused(bad_input("measure", "UNKNOWN_MEASURE", text))
    return measure or MEASURES[0]


def limit_of(asked: int, usual: int, most: int) -> int:
    return min(asked or usual, most)


def actor_of(credential: str, asked: str, client: str) -> str:
    """The name of the person who acts: the name in the credential, whatever name the request has.
    Without credentials, the name in the request, or else the client's name."""
    return credential or text_within("actor", asked) or client


def acknowledgement_of(request: pb.AcknowledgeRequest, actor: str) -> tuple[str, str, str, bool]:
    """(alert id, actor, note, undo)."""
    text_within("alert_id", request.alert_id, needed=True)
    text_within("note", request.note)
    return request.alert_id, actor, request.note, request.undo


def silence_of(request: pb.SilenceRequest, actor: str, now: float) -> tuple[str, float, str, str]:
    """(matcher, end in unix seconds, actor, reason)."""
    text_within("matcher", request.matcher, needed=True)
    text_within("reason", request.reason)
    until = request.until_unix_ms / 1000
    if not request.until_unix_ms:
        raise Refused(bad_input("until_unix_ms", "MISSING", "a silence must end"))
    if 0 < request.until_unix_ms < EARLIEST_MS:
        text = f"{request.until_unix_ms} is before the year 2000: give unix milliseconds"
        raise Refused(bad_input("until_unix_ms", "NOT_A_TIME", text))
    if until <= now:
        text = f"{now - until:.0f} s ago: a silence must end in the future"
        raise Refused(bad_input("until_unix_ms", "PAST", text))
    if until - now >= LONGEST_SILENCE_S:
        raise Refused(bad_input("until_unix_ms", "TOO_FAR", "a silence lasts a year at most"))
    return request.matcher, until, actor, request.reason


def annotation_of(request: pb.AnnotateRequest, actor: str, now: float) -> AnnotationRow:
    """The requested note; `removed` is set if it is to be deleted."""
    if not ANNOTATION_ID.fullmatch(request.id):
        text = "16 to 64 hex digits, the same at every server of a fleet"
        raise Refused(bad_input("id", "NOT_AN_ID", text))
    if request.remove:
        return AnnotationRow(request.id, 0, 0, "", actor, 0, True)
    text_within("text", request.text, needed=True, longest=LONGEST_NOTE)
    at, to = request.at_unix_ms, request.to_unix_ms or request.at_unix_ms
    if not EARLIEST_MS <= at <= (now + AHEAD_S) * 1000:
        text = f"{at}: give unix milliseconds between the year 2000 and tomorrow"
        raise Refused(bad_input("at_unix_ms", "NOT_A_TIME", text))
    if not at <= to <= at + LONGEST_NOTE_S * 1000:
        text = f"{to}: an annotation ends after it begins, within 90 days"
        raise Refused(bad_input("to_unix_ms", "NOT_A_TIME", text))
    return AnnotationRow(request.id, at, to, request.text, actor, 0)


def text_within(field: str, value: str, needed: bool = False, longest: int = LONGEST_TEXT) -> str:
    if needed and not value.strip():
        raise Refused(bad_input(field, "EMPTY", f"{field} is needed"))
    if len(value) > longest:
        text = f"{len(value)} characters; the limit is {longest}"
        raise Refused(bad_input(field, "TOO_LONG", text))
    return value
