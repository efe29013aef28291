"""The full text of `server status`: the state, its reason, the evidence behind it, and what is
served."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proto import observe_pb2 as pb
from server.telemetry.rows import refused_formats

MIB = 1 << 20


def report(snapshot: pb.ServerSnapshot, at: float) -> str:
    """`at` is unix seconds by the server's clock."""
    sections = [
        _head(snapshot, at),
        _replicas(snapshot.replicas),
        _memory(snapshot.replicas),
        _evidence(snapshot.replicas, at),
        _integrity(snapshot.replicas, at),
        _pairs("stamp parts", snapshot.stamp_parts),
        _pairs("environment", snapshot.env),
        _pairs("chosen automatically", snapshot.reasons),
        _pins(snapshot.pins),
    ]
    return "\n\n".join(section for section in sections if section)


def _head(snapshot: pb.ServerSnapshot, at: float) -> str:
    state = pb.ServerState.Name(snapshot.state)
    why = f": {snapshot.reason}" if snapshot.reason else ""
    up = age(at - snapshot.started_unix_ms / 1000)
    lines = [
        f"{snapshot.server}  {state}{why}",
        f"  trefoil {snapshot.version}, up {up}, front process {snapshot.rss_bytes / MIB:.0f} MiB"
        + (", plaintext beyond this host" if snapshot.insecure else ""),
        f"  stamp    {snapshot.stamp_name or 'none yet'}" + (" DIRTY" if snapshot.dirty else ""),
        f"           {snapshot.stamp}",
        *([f"  signed   by key {snapshot.signed_by}"] if snapshot.signed_by else []),
        f"  replicas {snapshot.warm_replicas} of {snapshot.wanted_replicas} warm",
        *_decoders(snapshot.replicas),
        f"  queue    {snapshot.queued} of {snapshot.queue_limit}, "
        f"a row waits for {snapshot.queue_seconds:.2f} s",
        f"  rows     {snapshot.requests} asked, {snapshot.failed} failed, "
        f"{snapshot.refused} refused, {snapshot.quarantined} quarantined",
        *_parts(snapshot),
        f"  telemetry {snapshot.telemetry_state}, {snapshot.telemetry_bytes / MIB:.1f} MiB, "
        f"{snapshot.telemetry_dropped or 'no'} records lost",
        *(f"            {name}: {text}" for name, text in sorted(snapshot.telemetry_notes.items())),
    ]
    return "\n".join(lines)


_COUNTED = ("pid", "in_flight", "answered", "restarts")


def _decoders(replicas: Sequence[pb.ReplicaStatus]) -> list[str]:
    restarts = sum(one.decoder_restarts for one in replicas)
    deadlines = sum(one.decoder_deadlines for one in replicas)
    written = sum(one.decoder_lines for one in replicas)
    line = f"  decoders {restarts} restarted, {deadlines} of them because a part took too long"
    if written:
        line += f"; {written} warnings of theirs (the first are in the log)"
    return [line] if restarts or written else []


def _parts(snapshot: pb.ServerSnapshot) -> list[str]:
    formats = refused_formats(snapshot.refused_formats)
    lines = [f"  formats  refused: {formats}"] if formats else []
    warned = ", ".join(f"{name} {n}" for name, n in sorted(snapshot.part_warnings.items()))
    if snapshot.parts_cut or warned:
        lines.append(f"  parts    {snapshot.parts_cut} cut" + (f"; {warned}" if warned else ""))
    return lines


def _replicas(replicas: Iterable[pb.ReplicaStatus]) -> str:
    head = ("replica", "state", "device", *(name.replace("_", " ") for name in _COUNTED))
    rows = [
        (str(one.index), one.state, one.device, *(str(getattr(one, name)) for name in _COUNTED))
        + (_mib(one.rss_bytes), _mib(one.private_bytes), _mib(one.shared_bytes), one.reason)
        for one in replicas
    ]
    return table((*head, "resident", "private", "shared", "reason"), rows)


def _mib(size: int) -> str:
    """Size in MiB; "" if it was not measured."""
    return f"{size / MIB:.0f} MiB" if size else ""


def _memory(replicas: Iterable[pb.ReplicaStatus]) -> str:
    """Memory of texts being written and of devices, if there is any."""
    rows = [
        (
            str(one.index),
            str(one.texts_writing),
            str(one.texts_waiting),
            f"{one.text_bytes / MIB:,.0f} of {one.text_bytes_most / MIB:,.0f}",
            f"{one.device_memory_bytes / MIB:,.0f} of {one.device_memory_total_bytes / MIB:,.0f}",
        )
        for one in replicas
        if one.texts_writing or one.texts_waiting or one.device_memory_total_bytes
    ]
    head = ["replica", "texts", "waiting", "text MiB", "device MiB"]
    return "texts and devices\n" + table(head, rows) if rows else ""


def _evidence(replicas: Iterable[pb.ReplicaStatus], at: float) -> str:
    head = ["replica", "mix", "ok", "p50 ms", "max ms", "limit ms"]
    head += ["max diff", "tolerance", "source", "age"]
    rows = [
        (
            str(one.index),
            found.mix,
            "yes" if found.ok else f"NO: {found.reason}",
            f"{found.p50_ms:.1f}",
            f"{found.max_ms:.1f}",
            f"{found.limit_ms:.1f}",
            f"{found.worst_difference:.1e}",
            f"{found.tolerance:.1e}",
            f"{found.source} x{found.runs}",
            age(at - found.at_unix_ms / 1000),
        )
        for one in replicas
        for found in one.evidence
    ]
    return "evidence of readiness\n" + table(head, rows) if rows else ""


def _integrity(replicas: Iterable[pb.ReplicaStatus], at: float) -> str:
    rows = [(str(one.index), _checked(one.self_check, at), "") for one in replicas]
    for one in replicas:
        for item in one.self_check.changed:
            when = "NOW: " if item.affects_answers_now else "at the next start: "
            rows.append((str(one.index), item.kind, f"{when}{item.name} {item.message}"))
    return (
        "integrity: is everything as it was loaded\n"
        + table(("replica", "last check", "changed"), rows)
        if rows
        else ""
    )


def _checked(check: pb.SelfCheck, at: float) -> str:
    """When a replica was last compared with what it loaded, and the result."""
    if check.error:
        return f"FAILED: {check.error}"
    if not check.at_unix_ms:
        return "not yet"
    result = "yes" if not check.changed else "NO"
    result += f", {age(at - check.at_unix_ms / 1000)} ago in {check.took_ms:.1f} ms"
    if check.verified_unix_ms:
        result += f"; every byte {age(at - check.verified_unix_ms / 1000)} ago"
    return result


def _pairs(title: str, pairs: object) -> str:
    items = sorted(dict(pairs).items())  # type: ignore[call-overload]
    if not items:
        return ""
    width = max(len(name) for name, _ in items)
    return "\n".join([title, *(f"  {name:{width}}  {value}" for name, value in items)])


def _pins(pins: Iterable[pb.StampPin]) -> str:
    rows = [(printable(pin.client), pin.stamp[:12], str(pin.refused)) for pin in pins]
    head = ("client", "pinned stamp", "refused")
    return "clients that pinned another stamp\n" + table(head, rows) if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of the width that they need, indented by two."""
    if not rows:
        return ""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = (
        "  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def printable(text: str) -> str:
    """Text from a client, without characters that a terminal would interpret."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def age(seconds: float) -> str:
    """3 s, 12 min, 5 h, 9 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
