"""The meaning of filter lines and matchers, in one place: rows, and for each line the rows that it
selects. The server's store and the console's cache are both compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from server.telemetry.record import Record
from tests.support.telemetry_bench import NOW, record

SITES = ("a", "b", "line 4", "")
CLIENTS = ("press-1", "press-2", 'the "old" press', "Größe [x]?")
MIXES = ("text", "image+text", "audio+image+text")
TRUE_LABELS = {3: "ok", 4: "stop", 8: "inspect", 9: "ok", 15: "stop"}  # by number of the record


def records() -> list[Record]:
    """Forty, each odd in some way."""
    return [_record(number) for number in range(40)]


def _record(number: int) -> Record:
    found = record(number, NOW + number)
    values = np.frombuffer(found.features, "<f4").copy()
    values[1] = (0.1, 0.2, 0.3, 0.7)[number % 4]
    values[2] = (0, 1, 5, np.nan)[number % 4]  # jpeg, png, a new one, no picture
    values[3] = np.nan if number % 5 == 0 else number
    site = SITES[number % 4]
    tags = {"site": site} if site else {}
    tags |= {"label": "vip"} if number == 5 else {}
    tags |= {"camera.side": "left"} if number == 6 else {}
    lost = number in (7, 20)
    return replace(
        found,
        features=values.tobytes(),
        slices=tags,
        client=CLIENTS[number % 4],
        mix=MIXES[number % 3],
        session="s1" if number < 10 else "",
        trace_id=f"{number:02x}" * 16,
        confidence=float("nan") if lost else number / 40,
        label="" if lost else found.label,
        error="INVALID_ARGUMENT/LIMIT/parts" if lost else "",
        replica=-1 if lost else number % 2,
        batch_size=1 + number % 8,
        queue_ms=number / 2,
    )


def brightness(row: Record) -> float:
    return float(np.frombuffer(row.features, "<f4")[1])


def picture(row: Record) -> float:
    return float(np.frombuffer(row.features, "<f4")[2])


def snr(row: Record) -> float:
    return float(np.frombuffer(row.features, "<f4")[3])


# Line, and whether it chooses a record whose true label, if any, is the second argument.
LINES: tuple[tuple[str, Callable[[Record, str], bool]], ...] = (
    ("", lambda r, true: True),
    ("site=b", lambda r, true: r.slices.get("site") == "b"),
    ("site!=b", lambda r, true: r.slices.get("site") != "b"),
    ("site=", lambda r, true: "site" not in r.slices),
    ("site!=", lambda r, true: "site" in r.slices),
    ('site="line 4"', lambda r, true: r.slices.get("site") == "line 4"),
    ("site~LINE", lambda r, true: r.slices.get("site") == "line 4"),
    ("site=l*4", lambda r, true: r.slices.get("site") == "line 4"),
    ("site!=l*", lambda r, true: r.slices.get("site") != "line 4"),
    ("slice.label=vip", lambda r, true: r.slices.get("label") == "vip"),
    ("slice.camera.side=left", lambda r, true: "camera.side" in r.slices),
    ("shift=night", lambda r, true: False),
    ("conf<0.5", lambda r, true: r.confidence < 0.5),
    ("conf<=0.5 conf>=0.25", lambda r, true: 0.25 <= r.confidence <= 0.5),
    ("conf!=0.5", lambda r, true: r.confidence != 0.5 and not r.error),
    ("batch=4", lambda r, true: r.batch_size == 4),
    ("replica=0", lambda r, true: r.replica <= 0),
    ("ms>20 queue<=5", lambda r, true: r.total_ms > 20 and r.queue_ms <= 5),
    ("preprocess>=3 forward=10", lambda r, true: True),
    ("label!=ok", lambda r, true: r.label != "ok"),
    ("label=i*", lambda r, true: r.label == "inspect"),
    ("mix~audio", lambda r, true: "audio" in r.mix),
    ("error", lambda r, true: bool(r.error)),
    ("!error", lambda r, true: not r.error),
    ("error=", lambda r, true: not r.error),
    ("error~limit", lambda r, true: bool(r.error)),
    ("labelled", lambda r, true: bool(true)),
    ("wrong", lambda r, true: bool(true) and true != r.label),
    ("!wrong true=ok", lambda r, true: true == "ok" == r.label),
    ("kept", lambda r, true: True),
    ("!kept", lambda r, true: False),
    ("client=press-*", lambda r, true: r.client.startswith("press-")),
    ('client~"old"', lambda r, true: "old" in r.client),
    ('client="Größe [x]?"', lambda r, true: r.client == CLIENTS[3]),
    ("session=s1", lambda r, true: r.session == "s1"),
    ("stamp=abab", lambda r, true: True),
    ("stamp=tiny-1+abab", lambda r, true: True),
    ("stamp!=ab", lambda r, true: False),
    ("trace=0a0a", lambda r, true: r.trace_id.startswith("0a0a")),
    (f"id={record(5, NOW + 5).prediction_id[:20]}", lambda r, true: r.at == NOW + 5),
    ("image.brightness<0.7", lambda r, true: bool(brightness(r) < np.float32(0.7))),
    ("image.brightness>=0.7", lambda r, true: bool(brightness(r) >= np.float32(0.7))),
    ("image.brightness=0.3", lambda r, true: bool(brightness(r) == np.float32(0.3))),
    ("audio.snr_db!=4", lambda r, true: bool(snr(r) == snr(r) != 4)),
    ("image.format=png", lambda r, true: picture(r) == 1),
    ("image.format!=png", lambda r, true: picture(r) in (0, 5)),
    ("image.format=new", lambda r, true: picture(r) == 5),
    ("image.format~PE", lambda r, true: picture(r) == 0),
    ("no.such.feature<1", lambda r, true: False),
    ("site=b conf<0.7 label!=ok replica=1", lambda r, true: (
        r.slices.get("site") == "b" and r.confidence < 0.7 and r.label != "ok" and r.replica == 1
    )),
)  # fmt: skip

# Line, and the message of its refusal.
REFUSED: tuple[tuple[str, str], ...] = (
    ("conf", "write a name, one of = != < <= > >= ~ and a value, or a flag"),
    ("conf<", "'' is not a number"),
    ("conf<low", "'low' is not a number"),
    ("conf=nan", "'nan' is not a number"),
    ("conf~1", "confidence is a number: use = != < <= > >="),
    ("label<ok", "label is text: use = != or ~"),
    ("site<3", "site is text: use = != or ~"),
    ("site~", "~ needs a text"),
    ("kept=1", "kept takes no value: write kept or !kept"),
    ("stamp=", "stamp needs its first digits"),
    ("image.format=", "image.format needs a value"),
    ("image.brightness<low", "'low' is not a number"),
    ('client="line 4', "a quotation mark is not closed"),
    ("at>2026-11-23", "use --since and --until, or the time axis"),
    ("=x", "write a name"),
    ("!site", "write a name"),
    ("'; DROP TABLE prediction", "write a name"),
    ("x'y=1", "write a name"),
    ("x=1 " * 21, "21 terms; the limit is 20"),
    ("x" * 100_000, "100000 characters; the limit is 4000"),
)
# Refused once the features are known.
UNFIT: tuple[tuple[str, str], ...] = (
    ("image.format<1", "image.format is a category: use = != or ~"),
    ("image.brightness~1", "image.brightness is a number: use = != < <= > >="),
    ("image.brightness=high", "'high' is not a number"),
)

# Matcher, and whether it silences this alert: kind drift, severity warning, features
# image.brightness and audio.snr_db, slices site=b and "site=line 4".
MATCHERS: tuple[tuple[str, bool], ...] = (
    ("kind=drift", True),
    ("kind=latency", False),
    ("kind=*", True),
    ("kind=dri?t", False),
    ("severity=warning", True),
    ("severity=critical kind=drift", False),
    ("stamp=ab*", True),
    ("key=drift/*", True),
    ("feature=image.*", True),
    ("feature=image.brightness slice=site=b", True),
    ("feature=image.brightness slice=site=a", False),
    ("feature=image", False),
    ("slice=site=b", True),
    ("slice=site=*", True),
    ('slice="site=line 4"', True),
    ("ID", True),  # stands for the id of the alert
    ("id=ID", True),
    ("kind=drift,severity=warning", False),  # a comma separates nothing
    ("", False),
    ("colour=red", False),
    ("feature=", False),
)
