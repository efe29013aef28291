"""Which server runs what: every part of the stamp against the majority of the fleet. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from console.state.dashboard import SkewCell, SkewLine
from console.state.deploys import mark_of
from console.state.domain import (
    STAMP_PARTS,
    ServerRecord,
    ServerSnapshot,
)
from server.telemetry.rows import DeployRow, IntegrityChange

# Where the files of a bundle are, by part of the stamp (docs/bundle.md).
_PARTS = (
    ("weights/", "weights"),
    ("model/", "weights"),
    ("preprocess.json", "preprocessing"),
    ("tokenizer/", "preprocessing"),
    ("labels.json", "labels"),
    ("reference/", "reference"),
    ("training.json", "data"),
)
# Loading or rehearsing a stamp does not make a server serve it.
BROUGHT = ("start", "activate", "rollback", "canary")
PREPROCESSING = "preprocessing"
ABSENT = "absent"


def majority(values: Sequence[str], prefer: str = "") -> str:
    """The most frequent value. A tie goes to `prefer` if it is among the most frequent, otherwise
    to the smallest, so that the answer does not flicker between two readings."""
    counted = Counter(value for value in values if value)
    if not counted:
        return ""
    most = max(counted.values())
    best = sorted(value for value, count in counted.items() if count == most)
    return prefer if prefer in best else best[0]


def _tied(values: Sequence[str]) -> bool:
    """Whether two values are the most frequent."""
    counts = sorted(Counter(value for value in values if value).values(), reverse=True)
    return len(counts) > 1 and counts[0] == counts[1]


def compare(
    servers: Sequence[ServerRecord],
    deploys: Sequence[tuple[str, DeployRow]],
    now_s: float,
    expected_stamp: str = "",
) -> tuple[SkewLine, ...]:
    """One line for each server. With `expected_stamp`, the others are compared with the parts that
    a server of this stamp reports."""
    known = [s.snapshot for s in servers if s.snapshot is not None]
    model = next((s for s in known if expected_stamp and s.stamp == expected_stamp), None)
    values = {part: [s.stamp_parts.get(part, "") for s in known] for part in STAMP_PARTS}
    if model is not None:
        usual = {part: model.stamp_parts.get(part, "") for part in STAMP_PARTS}
    else:  # without a majority every server differs: any choice would be called right
        usual = {p: "" if _tied(found) else majority(found) for p, found in values.items()}
    detail = _usual([s.stamp_detail for s in ([model] if model else known)])
    env = _usual([s.env for s in known])
    lines = []
    for server in servers:
        found, beside = server.snapshot, detail
        if found is not None and _has_no_majority(found, usual):
            others = [s for s in known if s.stamp_parts != found.stamp_parts]
            beside = _usual([s.stamp_detail for s in others])
        lines.append(_line(server, usual, beside, env, deploys, now_s))
    return tuple(lines)


def _has_no_majority(found: ServerSnapshot, usual: Mapping[str, str]) -> bool:
    """Whether a part of this server is in a tie with that of others."""
    return any(found.stamp_parts.get(part) and not usual[part] for part in STAMP_PARTS)


def _usual(maps: Sequence[Mapping[str, str]]) -> dict[str, str]:
    keys = sorted({key for found in maps for key in found})
    return {key: majority([found.get(key, "") for found in maps]) for key in keys}


def _line(
    server: ServerRecord,
    usual: Mapping[str, str],
    detail: Mapping[str, str],
    env: Mapping[str, str],
    deploys: Sequence[tuple[str, DeployRow]],
    now_s: float,
) -> SkewLine:
    found = server.snapshot
    if found is None:
        cells = tuple(SkewCell("", False, False) for _ in STAMP_PARTS)
        return SkewLine(
            server.address, server.name, "", "", cells, math.nan, math.inf, False, (), (), ()
        )
    parts = {part_of(item) for replica in found.replicas for item in replica.self_check.changed}
    cells = tuple(
        replace(_cell(found.stamp_parts.get(part, ""), usual[part]), moved=part in parts)
        for part in STAMP_PARTS
    )
    brought = [
        row.at_unix_ms / 1000 - server.link.shift_s
        for address, row in deploys
        if address == server.address and row.stamp == found.stamp and mark_of(row.action) in BROUGHT
    ]
    odd = any(cell.differs for cell in cells)
    pins = tuple(
        (pin.client, pin.stamp, pin.refused, pin.last_unix_ms / 1000)
        for pin in found.pins
        if pin.stamp != found.stamp
    )
    return SkewLine(
        address=server.address,
        name=server.name,
        stamp=found.stamp,
        stamp_name=found.stamp_name,
        cells=cells,
        since_s=max(brought, default=math.nan),
        age_s=now_s - server.link.heard_s if server.link.heard_s else math.inf,
        dirty=found.dirty,
        details=_by_value(_differences(found.stamp_detail, detail)) if odd else (),
        env=_differences(found.env, env),
        pins=pins,
        moved=moved_of(found),
        signed_by=found.signed_by,
        lost_s=server.link.heard_s if server.link.state == "lost" else math.nan,
        tied=_has_no_majority(found, usual),
    )


def moved_of(found: ServerSnapshot) -> tuple[tuple[str, str, bool], ...]:
    """How replicas differ from what they loaded; replicas with the same report share a line."""
    indexes_of: dict[tuple[str, str, bool], list[int]] = {}
    for replica in found.replicas:
        check = replica.self_check
        items = [(item.name, item.message, item.affects_answers_now) for item in check.changed]
        if check.error:
            items.append(("self-check", f"failed: {check.error}", False))
        for item in items:
            indexes_of.setdefault(item, []).append(replica.index)
    lines = [
        (f"replica {', '.join(map(str, indexes))}: {name}", text, now)
        for (name, text, now), indexes in indexes_of.items()
    ]
    return tuple(sorted(lines, key=lambda line: not line[2]))


def part_of(item: IntegrityChange) -> str:
    """The part of the stamp that a changed item belongs to; empty if it is not shown."""
    if item.kind == "library":
        return "libraries"
    if item.kind == "code" or item.name.startswith("pipelines."):
        return "code"
    return next((part for prefix, part in _PARTS if item.name.startswith(prefix)), "")


def _cell(value: str, usual: str) -> SkewCell:
    return SkewCell(value, bool(value) and value != usual, bool(value))


def _by_value(found: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, str, str], ...]:
    """For a file whose values are known by name, the names replace its digest: `image.max_pixels`
    instead of `4e941974`. Older servers report digests only."""
    values = [(what, here, there) for what, here, there in found if _is_value(what)]
    both = bool(values) and all(ABSENT not in pair[1:] for pair in values)
    digests = [one for one in found if not _is_value(one[0])]
    if not both:
        return tuple(digests)
    rest = [one for one in digests if one[0] != f"{PREPROCESSING}/preprocess.json"]
    named = [(w.removeprefix(f"{PREPROCESSING}/"), here, there) for w, here, there in values]
    return (*named, *rest)


def _is_value(what: str) -> bool:
    part, _, name = what.partition("/")
    return part == PREPROCESSING and not name.endswith((".json", ".py"))


def _differences(
    here: Mapping[str, str], usual: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    keys = sorted(set(here) | set(usual))
    return tuple(
        (key, here.get(key, ABSENT), usual.get(key, "") or ABSENT)
        for key in keys
        if here.get(key, "") != usual.get(key, "")
    )
