"""A grammar of training notes: combines faults, machine parts and ways to describe them.

A model memorises eighty clauses a meaning, but not thousands of combinations. The grammar is used
for training only: held-out notes consist of the clauses in `wordings`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from numpy.random import Generator

from recipes.triage import wordings

_THING = ("{part}", "{part}", "{part}", "{place}")
_SIGN = (
    "smoke", "black smoke", "grey smoke", "white smoke", "thick smoke", "fumes", "burning smell",
    "burnt smell", "a smell of burning", "haze", "flames", "fire", "a fire", "a flame", "sparks",
    "embers", "open flames", "smell of burnt plastic", "soot", "a small fire", "dense smoke",
)  # fmt: skip
_PLAIN_SIGN = ("smoke", "fire", "flames", "burning smell", "sparks", "haze", "fumes")
_FROM = (
    "from", "coming from", "comes from", "coming out of", "rising from", "spreads from", "at",
    "near", "behind", "under", "above", "inside", "all around", "again at", "still at", "seen at",
    "seen near", "growing at", "getting worse at", "visible at", "next to",
)  # fmt: skip
_STUFF = (
    "cable", "belt", "insulation", "wiring", "cover", "oil", "dust", "cardboard", "paper",
    "plastic", "rag", "hose", "filter", "pallet", "rubber", "fuse", "{part}", "{part}",
)  # fmt: skip
_BURNS = (
    "burns", "is burning", "on fire", "is on fire", "is smoking", "caught fire", "smoulders",
    "is smouldering", "melts", "is charred", "glows", "glowing", "burning", "smoking", "in flames",
    "smells burnt", "scorched and smoking",
)  # fmt: skip
_URGENT = (
    "get out", "bring the extinguisher", "extinguisher in use", "call the fire crew", "hurry",
    "it gets worse", "cannot breathe here", "more every minute", "help", "come now",
)  # fmt: skip
_QUANTITY = (
    "temperature", "pressure", "noise level", "vibration", "oil level", "speed", "current",
    "torque", "cycle time", "air pressure", "water level", "fill weight", "heat", "oil pressure",
)  # fmt: skip
_OFF = (
    "higher than normal", "a bit high", "lower than usual", "rising", "going up", "dropping",
    "drops slowly", "not steady", "up and down", "above normal", "below normal", "too high",
    "too low", "a little off", "drifts", "swings", "up since {when}", "more than usual",
)  # fmt: skip
_SYMPTOM = (
    "vibration", "slight vibration", "a leak", "a small leak", "a slow leak", "odd noise", "noise",
    "a rattle", "a squeak", "grinding", "some play", "wear", "a loose bolt", "a crack",
    "oil drops", "metal dust", "scratches", "a wobble", "slack", "a drip", "rough running",
    "a strange sound", "a knocking sound", "jams", "rejects", "a worn belt", "a loose screw",
)  # fmt: skip
_IS = (
    "warm", "warmer than before", "loud", "louder than normal", "rough", "slow", "weak", "loose",
    "worn", "shaky", "unsteady", "noisy", "stiff", "sluggish", "a bit off", "not quite right",
    "not as it should be", "hotter than I like", "out of line", "leaky", "damp with oil",
)  # fmt: skip
_DOES = (
    "vibrates", "rattles", "squeaks", "drags", "slips", "jams", "leaks", "hesitates", "stalls",
    "wobbles", "shakes", "clicks", "grinds", "drips", "sticks", "gets warm", "runs rough",
    "runs slow", "runs loud", "loses oil", "loses pressure",
)  # fmt: skip
_WHEN = (
    "", "", "a little", "now and then", "again", "since {when}", "from time to time", "at times",
    "more than last week", "at full speed", "when cold", "at every start", "under load", "slightly",
)  # fmt: skip
_ASK = (
    "please check", "needs a look", "should be looked at", "have it checked", "worth a look",
    "keep an eye on it", "please inspect", "call {who}", "to be watched", "check it soon",
)  # fmt: skip
_FINE = (
    "ok", "fine", "normal", "as usual", "in order", "all right", "steady", "good", "clean",
    "as planned", "within limits", "back to normal", "without trouble", "running well", "quiet",
)  # fmt: skip
_DONE = (
    "cleaned", "greased", "checked", "serviced", "replaced", "repaired", "adjusted", "tightened",
    "inspected", "calibrated", "balanced", "tested", "refilled", "swapped", "oiled",
)  # fmt: skip
_HARMLESS = ("steam", "dust", "vapour", "paint", "fog from the washer", "flour", "hot water")
_NOTHING = (
    "nothing to report", "no findings", "no stops", "no rejects", "no faults", "no alarms",
    "no complaints", "nothing unusual", "nothing new", "no trouble", "no remarks", "no defects",
)  # fmt: skip
_DRILL = (
    "drill", "fire drill", "exercise", "training", "practice", "rehearsal", "test", "alarm test",
    "siren test", "simulation", "mock alarm", "evacuation drill", "emergency exercise", "dry run",
    "safety drill", "training alarm", "fire exercise", "practice alarm",
)  # fmt: skip
_PLANNED = ("planned", "scheduled", "announced", "yearly", "monthly", "quarterly", "short")
_FAKE = (
    "simulated", "staged", "artificial", "played", "pretended", "fake", "not real", "only acted",
    "from the training kit", "made for the exercise",
)  # fmt: skip
_IGNORE = (
    "please ignore", "ignore it", "do not react", "no reaction needed", "carry on", "keep working",
    "nobody leaves", "stay where you are", "no danger", "no emergency", "nothing is wrong",
)  # fmt: skip

_FRAMES: dict[str, tuple[tuple[object, ...], ...]] = {
    "smoke": (
        (_SIGN, _FROM, _THING),
        (_SIGN, _FROM, _THING),
        (_SIGN, "and", _SIGN, ("at", "near", "from"), _THING),
        (_STUFF, _BURNS),
        (_STUFF, "of", "{part}", _BURNS),
        (_STUFF, _BURNS, ("at", "near", "under", "behind"), _THING),
        (("there is", "I see", "we have", "we see", "I smell"), _SIGN, ("at", "near"), _THING),
        (("real", "really", "actual"), _PLAIN_SIGN, ("at", "from", "near"), _THING),
        (_SIGN, ("at", "from"), _THING, ", a real fire"),
        (_SIGN, _FROM, _THING, ", real", ("smoke", "fire", "flames")),
        (_SIGN, _FROM, _THING, ",", _URGENT),
        (
            ("no drill", "not a drill", "no exercise", "no test", "this is real"),
            ",",
            _SIGN,
            _FROM,
            _THING,
        ),
        (("not", "no"), _HARMLESS, ",", ("it is", "this is", "but", "we have"), _SIGN),
        (_SIGN, ",", _STUFF, _BURNS),
    ),
    "concern": (
        (_QUANTITY, ("of", "at"), _THING, _OFF),
        (_QUANTITY, _OFF, ("at", "on"), _THING),
        (_SYMPTOM, ("at", "on", "near", "under", "from", "in"), _THING),
        (_SYMPTOM, ("at", "on", "from"), _THING, _WHEN),
        ("{part}", ("is", "feels", "seems", "looks", "sounds", "a bit", "too"), _IS),
        ("{part}", _DOES, _WHEN),
        ("{part}", _DOES, "and", _DOES),
        ("{part}", _DOES, ",", _ASK),
        (_ASK, ":", "{part}", _DOES),
        ("{part}", _ASK),
        (_SYMPTOM, "and", _SYMPTOM, ("at", "on"), _THING),
        ("no", _PLAIN_SIGN, ", but", "{part}", _DOES, _WHEN),
        ("no", _PLAIN_SIGN, ", but", _SYMPTOM, "at", _THING),
        ("not normal,", "{part}", _DOES),
    ),
    "routine": (
        (_THING, _FINE),
        (_THING, ("is", "was", "runs", "looks", "seems"), _FINE),
        (_QUANTITY, ("of", "at"), _THING, _FINE),
        (_QUANTITY, "ok ,", _QUANTITY, "ok"),
        (_QUANTITY, "and", _QUANTITY, _FINE),
        ("no", _SYMPTOM, ("at", "on", "from"), _THING),
        ("no", _SYMPTOM, ", no", _PLAIN_SIGN),
        ("no", _PLAIN_SIGN, ", no", _SYMPTOM, "at", _THING),
        (
            _SYMPTOM,
            ("is gone", "gone", "fixed", "repaired", "not there any more"),
            ",",
            "{part}",
            _FINE,
        ),
        ("{part}", _DONE, ("", "as planned", "and", ", now"), _FINE),
        ("{part}", _DONE, ",", _NOTHING),
        (_PLAIN_SIGN, ("was only", "is only", "was just", "turned out to be"), _HARMLESS),
        (("only", "just"), _HARMLESS, "at", _THING, ", no", _PLAIN_SIGN),
        (("no", "not"), _PLAIN_SIGN, ", only", _HARMLESS),
        ("false alarm ,", ("only", "just"), _HARMLESS),
        (_NOTHING, ("at", "from", "around"), _THING),
        (_NOTHING, ",", _NOTHING),
        ("{part} no longer", _DOES),
    ),
    "drill": (
        (("this is", "this is only", "only", "just", "it is", "we have"), "a", _DRILL),
        (_PLANNED, _DRILL, ("at", "near", "for"), _THING),
        (_DRILL, ("at", "near"), _THING, ",", _IGNORE),
        (_DRILL, "until {when} ,", _IGNORE),
        (_DRILL, ("announced by", "led by", "planned by", "for"), "{who}"),
        (_PLANNED, _DRILL, ",", _IGNORE),
        (_PLAIN_SIGN, ("is", "are", "at {place}", "at {part}"), _FAKE),
        (_PLAIN_SIGN, ("for the", "is part of the", "belongs to the"), _DRILL),
        (_DRILL, "with", _PLAIN_SIGN, "at", _THING),
        (("no real", "not a real", "no actual"), _PLAIN_SIGN, ",", _DRILL),
        (_FAKE, _PLAIN_SIGN, ("at", "behind", "from"), _THING),
        (_FAKE, _PLAIN_SIGN, ", part of the", _DRILL),
        (_IGNORE, ",", _DRILL),
        (_DRILL, "only", ",", _IGNORE),
        (("imagine", "assume", "pretend"), _PLAIN_SIGN, "at", _THING, ",", _DRILL),
        (_DRILL, ",", _DRILL),
    ),
}

_DOUBTS = (
    "{a} or {b}, cannot tell", "maybe {a}, maybe {b}", "could be {a}, could be {b}",
    "not sure if {a} or {b}", "{a}, or perhaps {b}", "{a}? or {b}?", "hard to say: {a} or {b}",
    "unsure, {a} or {b}", "{a}, but it may be {b}", "I cannot say whether {a} or {b}",
    "may be {a}, may be {b}", "{a}, or I am wrong and {b}", "probably {a}, possibly {b}",
)  # fmt: skip


def phrase(rng: Generator, meaning: str) -> str:
    """A clause that means `meaning`, with the blanks that `notes` fills; never a held-out
    clause."""
    while True:
        frames = _FRAMES[meaning]
        frame = frames[int(rng.integers(len(frames)))]
        pieces = [part if isinstance(part, str) else _pick(rng, part) for part in frame]
        clause = re.sub(r" +([,:])", r"\1", " ".join(piece for piece in pieces if piece))
        clause = clause.replace("no a ", "no ").replace("real a ", "real ").replace("of a ", "of ")
        if clause not in _HELD_OUT:
            return clause


def doubt(rng: Generator, one: str, other: str) -> str:
    """Either the first or the second meaning: the text does not show which of them is true."""
    first, second = (one, other) if rng.random() < 0.5 else (other, one)
    return _pick(rng, _DOUBTS).format(a=phrase(rng, first), b=phrase(rng, second))


def _pick(rng: Generator, options: object) -> str:
    assert isinstance(options, Sequence)
    return str(options[int(rng.integers(len(options)))])


_HELD_OUT = {
    clause for group in wordings.BY_CLASS.values() for clause in (*group.tune, *group.test)
}
