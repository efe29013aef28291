"""Line-side triage examples: a note, a photo and a sound of one station, with the right label.

Deterministic for a generator state. Imports no torch, so clients can generate traffic with it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from numpy.random import Generator

from pipelines.types import MODALITIES, Modality
from recipes.triage import drawing, notes, sounds
from recipes.triage.drawing import Camera, LampColour, SignShape, Station
from recipes.triage.notes import NoteClass
from recipes.triage.sounds import SoundClass
from recipes.triage.wordings import Split

Site = Literal["a", "b", "c"]
Shift = Literal["day", "night"]

SITES: tuple[Site, ...] = ("a", "b", "c")
SHIFTS: tuple[Shift, ...] = ("day", "night")
LABELS = ("run on", "watch", "service soon", "stop line", "evacuate", "ignore drill")

_NOTE_POINTS = {"routine": 0, "concern": 1, "smoke": 5}
_LAMP_POINTS = {"green": 0, "amber": 1, "red": 3}
_SIGN_POINTS = {"circle": 0, "square": 0, "triangle": 1, "cross": 2}
_SOUND_POINTS = {"hum": 0, "pulse": 1, "knock": 2, "rising": 3}


CALM_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class _Shares:
    """How often each value occurs, in the order of the classes."""

    note: tuple[float, float, float, float]
    lamp: tuple[float, float, float]
    sign: tuple[float, float, float, float]
    sound: tuple[float, float, float, float, float]


_CALM = _Shares(
    note=(0.66, 0.16, 0.03, 0.15),
    lamp=(0.68, 0.24, 0.08),
    sign=(0.4, 0.38, 0.12, 0.1),
    sound=(0.62, 0.16, 0.09, 0.06, 0.07),
)
_FAULTY = _Shares(
    note=(0.2, 0.38, 0.26, 0.16),
    lamp=(0.2, 0.4, 0.4),
    sign=(0.17, 0.18, 0.32, 0.33),
    sound=(0.17, 0.2, 0.23, 0.26, 0.14),
)


@dataclass(frozen=True, slots=True)
class StationState:
    """The true state of a station, whichever parts of it a request shows."""

    note: NoteClass
    lamp: LampColour
    sign: SignShape
    unit: int
    sound: SoundClass


@dataclass(frozen=True, slots=True)
class Example:
    note: str | None
    jpeg: bytes | None
    wav: bytes | None
    label: str
    description: str
    slices: dict[str, str]
    truth: StationState


def example(
    rng: Generator,
    *,
    site: Site = "a",
    shift: Shift = "day",
    split: Split = "test",
    modalities: Collection[Modality] = MODALITIES,
    size: tuple[int, int] | None = None,
    seconds: float | None = None,
    calm: bool | None = None,
) -> Example:
    """One labelled example. `size` (width, height) and `seconds` fix the photo and the sound,
    `calm` whether the station is mostly in good order."""
    truth = state(rng, calm)
    camera, noise = surroundings(site, shift)
    station = Station(truth.lamp, truth.sign, truth.unit)
    # All media are generated in any case, so that a subset of the modalities is a subset of the
    # same example.
    note = notes.write(rng, truth.note, split)
    jpeg = drawing.photograph(rng, station, camera, split, size)
    wav = sounds.record(rng, truth.sound, noise, seconds)
    return Example(
        note=note if "text" in modalities else None,
        jpeg=jpeg if "image" in modalities else None,
        wav=wav if "audio" in modalities else None,
        label=label(truth, modalities),
        description=description(truth, modalities),
        slices={"site": site, "shift": shift},
        truth=truth,
    )


def state(rng: Generator, calm: bool | None = None) -> StationState:
    """A station's state: mostly calm or mostly faulty, so that evidence tends to agree."""
    if calm is None:
        calm = rng.random() < CALM_SHARE
    shares = _CALM if calm else _FAULTY
    return StationState(
        note=notes.CLASSES[int(rng.choice(4, p=shares.note))],
        lamp=drawing.COLOURS[int(rng.choice(3, p=shares.lamp))],
        sign=drawing.SHAPES[int(rng.choice(4, p=shares.sign))],
        unit=int(rng.integers(10)),
        sound=sounds.CLASSES[int(rng.choice(5, p=shares.sound))],
    )


def label(truth: StationState, modalities: Collection[Modality]) -> str:
    """The rule: a leak (hiss) empties the hall, a drill is ignored, else the evidence adds up."""
    hear, read, see = "audio" in modalities, "text" in modalities, "image" in modalities
    if hear and truth.sound == "hiss":
        return "evacuate"
    if read and truth.note == "drill":
        return "ignore drill"
    points = _SOUND_POINTS[truth.sound] if hear else 0
    points += _NOTE_POINTS[truth.note] if read else 0
    points += _LAMP_POINTS[truth.lamp] + _SIGN_POINTS[truth.sign] if see else 0
    for least, name in ((8, "evacuate"), (5, "stop line"), (3, "service soon"), (1, "watch")):
        if points >= least:
            return name
    return "run on"


def description(truth: StationState, modalities: Collection[Modality]) -> str:
    """One line, e.g. `unit 3, amber cross; knock sound; smoke note`."""
    clauses = []
    if "image" in modalities:
        clauses.append(f"unit {truth.unit}, {truth.lamp} {truth.sign}")
    if "audio" in modalities:
        clauses.append(f"{truth.sound} sound")
    if "text" in modalities:
        clauses.append(f"{truth.note} note")
    return "; ".join(clauses)


def surroundings(site: Site, shift: Shift) -> tuple[Camera, float]:
    """Site b's camera is yellowish, site c's hall loud; nights are darker and noisier."""
    night = shift == "night"
    cast = {"a": (1.0, 1.0, 1.0), "b": (1.06, 0.97, 0.7), "c": (0.98, 1.0, 1.03)}[site]
    loud = {"a": 1.0, "b": 1.0, "c": 2.6}[site]
    camera = Camera(cast, light=0.4 if night else 1.0, noise=20.0 if night else 6.0)
    return camera, loud * (1.3 if night else 1.0)
