"""Photos of a station as JPEG: a signal lamp, a sign, and a unit number in real handwriting."""

from __future__ import annotations

import colorsys
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from recipes.triage.wordings import Split

LampColour = Literal["green", "amber", "red"]
SignShape = Literal["circle", "square", "triangle", "cross"]
COLOURS: tuple[LampColour, ...] = ("green", "amber", "red")
SHAPES: tuple[SignShape, ...] = ("circle", "square", "triangle", "cross")

# Mean and spread of each colour's hue in degrees. Neighbours overlap by 1-2 %: no camera could
# distinguish those lamps, so a calibrated model is not sure of them.
_HUES = {"green": (116.0, 20.0), "amber": (42.0, 8.0), "red": (5.0, 8.5)}
_SIZES = ((640, 480),) * 6 + ((800, 600), (480, 360), (1024, 768), (640, 360), (480, 640))


@dataclass(frozen=True, slots=True)
class Camera:
    """The effect of site and time of day on a photo. `cast` multiplies red, green and blue."""

    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    light: float = 1.0
    noise: float = 6.0  # grey levels


@dataclass(frozen=True, slots=True)
class Station:
    lamp: LampColour
    sign: SignShape
    unit: int


def photograph(
    rng: Generator,
    station: Station,
    camera: Camera,
    split: Split,
    size: tuple[int, int] | None = None,
    ease: float = 0.0,
) -> bytes:
    """A JPEG of the station as this camera sees it; `size` is (width, height) in pixels.

    With `ease` 1, everything is in its place, upright and in focus: training begins with that.
    """
    width, height = size if size is not None else _SIZES[int(rng.integers(len(_SIZES)))]
    # Drawn at one height for every file size, so that strokes and blur scale with it.
    canvas_size = (round(480 * width / height), 480) if width >= height else (480, 640)
    picture = _scene(rng, station, canvas_size, split, ease)
    picture = _shoot(rng, picture, camera, ease)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(40, 93)))
    return buffer.getvalue()


def _scene(
    rng: Generator, station: Station, size: tuple[int, int], split: Split, ease: float
) -> Image.Image:
    width, height = size
    wall = tuple(int(c) for c in rng.integers(70, 190, 3) // 2 + int(rng.integers(20, 70)))
    picture = Image.new("RGB", size, wall)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 7))):
        _clutter(rng, draw, size)
    top = int(rng.integers(8, 60))
    shade = int(rng.integers(95, 190))
    tint = tuple(int(shade + d) for d in rng.integers(-22, 23, 3))
    box = (int(width * rng.uniform(0.0, 0.06)), top, int(width * rng.uniform(0.93, 1.0)), height)
    draw.rounded_rectangle(box, radius=18, fill=tint, outline=(40, 40, 44), width=4)
    # Lamp and sign on one side, the number plate on the other; half of the stations are mirrored.
    mirrored = rng.random() < 0.5 * (1 - ease)
    left, right = (0.7, 0.27) if mirrored else (0.28, 0.7)
    if width < height:
        left, right = (0.6, 0.36) if mirrored else (0.36, 0.6)
    _lamp(rng, picture, station.lamp, _near(rng, width * left, height * 0.24, ease))
    _sign(rng, draw, station.sign, _near(rng, width * left, height * 0.73, ease))
    _plate(rng, picture, station.unit, _near(rng, width * right, height * 0.53, ease), split)
    return picture


def _near(rng: Generator, x: float, y: float, ease: float) -> tuple[float, float]:
    room = 1 - ease
    return x + room * float(rng.uniform(-26, 26)), y + room * float(rng.uniform(-20, 20))


def _clutter(rng: Generator, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """Pipes, panels and shelves behind the station."""
    x, y = int(rng.integers(-50, size[0])), int(rng.integers(-50, size[1]))
    w, h = int(rng.integers(10, 240)), int(rng.integers(10, 160))
    colour = tuple(int(c) for c in rng.integers(40, 200, 3))
    draw.rectangle((x, y, x + w, y + h), fill=colour)


def _lamp(
    rng: Generator, picture: Image.Image, colour: LampColour, centre: tuple[float, float]
) -> None:
    mean, spread = _HUES[colour]
    hue = (float(rng.normal(mean, spread)) % 360.0) / 360.0
    lit = colorsys.hsv_to_rgb(hue, float(rng.uniform(0.7, 1.0)), float(rng.uniform(0.7, 1.0)))
    rgb = tuple(int(255 * c) for c in lit)
    x, y, r = *centre, float(rng.uniform(52, 78))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x - 16, y, x + 16, y + r + 22), fill=(48, 48, 52))
    draw.ellipse((x - r - 9, y - r - 9, x + r + 9, y + r + 9), fill=(36, 36, 40))
    draw.ellipse((x - r, y - r, x + r, y + r), fill=rgb)
    # Glare towards white in the middle of a strong lamp.
    glare = float(rng.uniform(0.0, 0.55)) * r
    core = tuple(int(c + (255 - c) * 0.6) for c in rgb)
    gx, gy = x + float(rng.uniform(-0.3, 0.3)) * r, y + float(rng.uniform(-0.3, 0.3)) * r
    draw.ellipse((gx - glare, gy - glare, gx + glare, gy + glare), fill=core)


def _sign(
    rng: Generator, draw: ImageDraw.ImageDraw, shape: SignShape, centre: tuple[float, float]
) -> None:
    x, y, r = *centre, float(rng.uniform(80, 100))
    board = ((236, 232, 220), (228, 196, 60), (210, 222, 236))[int(rng.integers(3))]
    ink = ((24, 24, 28), (30, 50, 110), (110, 24, 24))[int(rng.integers(3))]
    draw.rectangle((x - r, y - r, x + r, y + r), fill=board, outline=(60, 60, 60), width=3)
    s, line = r * float(rng.uniform(0.55, 0.78)), int(rng.integers(18, 32))
    turn = float(rng.normal(0, 0.1))

    def at(angle: float, distance: float) -> tuple[float, float]:
        return x + distance * np.cos(angle + turn), y + distance * np.sin(angle + turn)

    quarter = np.pi / 2
    if shape == "circle":
        draw.ellipse((x - s, y - s, x + s, y + s), outline=ink, width=line)
    elif shape == "cross":
        for start in (np.pi / 4, 3 * np.pi / 4):
            draw.line((at(start, s * 1.15), at(start + np.pi, s * 1.15)), fill=ink, width=line)
    else:
        corners = 4 if shape == "square" else 3
        first = np.pi / 4 if shape == "square" else -quarter
        ring = [at(first + 2 * np.pi * k / corners, s * 1.15) for k in range(corners)]
        draw.line([*ring, ring[0], ring[1]], fill=ink, width=line, joint="curve")
    if rng.random() < 0.08:
        # A splash of dirt that may hide the sign.
        a, d, q = float(rng.uniform(0, 6.3)), float(rng.uniform(0, r)), float(rng.uniform(15, 45))
        px, py = at(a, d)
        draw.ellipse((px - q, py - q, px + q, py + q), fill=(70, 60, 50))


def _plate(
    rng: Generator,
    picture: Image.Image,
    unit: int,
    centre: tuple[float, float],
    split: Split,
) -> None:
    pool = digits(split)[unit]
    strokes = pool[int(rng.integers(len(pool)))]
    side = int(rng.integers(190, 232))
    ink = _handwriting(rng, strokes, side)
    paper = np.array(((244, 242, 236), (250, 240, 200), (226, 236, 244))[int(rng.integers(3))])
    pen = np.array(((20, 20, 24), (20, 40, 120), (130, 20, 30), (16, 80, 40))[rng.integers(4)])
    grey = ink[..., None]
    plate = Image.fromarray((paper * (1 - grey) + pen * grey).astype(np.uint8))
    picture.paste(plate, (int(centre[0] - side / 2), int(centre[1] - side / 2)))


def _handwriting(rng: Generator, strokes: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The 8x8 digit as ink in 0..1 on a plate: smoothed, then turned, sheared and made bolder."""
    small = Image.fromarray((strokes * 255).astype(np.uint8))
    room = 0.16
    big = small.resize((side, side), Image.Resampling.BICUBIC)
    turn, shear = float(rng.normal(0, 0.11)), float(rng.normal(0, 0.16))
    zoom_x, zoom_y = (float(rng.uniform(1.02, 1.3)) for _ in range(2))
    dx, dy = (float(rng.normal(0, 0.035)) * side for _ in range(2))
    cos, sin, half = np.cos(turn), np.sin(turn), side / 2
    a, b = zoom_x * cos, zoom_x * (-sin + shear)
    c, d = zoom_y * sin, zoom_y * cos
    offset_x, offset_y = (
        half - a * (half + dx) - b * (half + dy),
        half - c * (half + dx) - d * (half + dy),
    )
    turned = big.transform(
        (side, side),
        Image.Transform.AFFINE,
        (a, b, offset_x, c, d, offset_y),
        Image.Resampling.BILINEAR,
    )
    grey = np.asarray(turned, dtype=np.float32) / 255
    # A threshold with a soft edge: the lower, the bolder the stroke.
    level = float(rng.uniform(0.25, 0.5))
    ink = np.clip((grey - level) / room + 0.5, 0, 1) * np.float32(rng.uniform(0.75, 1.0))
    return np.asarray(ink, dtype=np.float32)


def _shoot(rng: Generator, picture: Image.Image, camera: Camera, ease: float) -> Image.Image:
    """Tilt, focus, light and sensor noise."""
    picture = picture.rotate(
        float(rng.normal(0, 3.2 * (1 - ease))), Image.Resampling.BILINEAR, fillcolor=(60, 62, 66)
    )
    blur = (1 - ease) * float(rng.gamma(1.6, 1.1))
    if blur > 0.4:
        picture = picture.filter(ImageFilter.BoxBlur(min(blur, 7.0)))
    pixels = np.array(picture, dtype=np.float32)
    light = camera.light * float(np.exp(rng.normal(0, 0.16)))
    cast = np.array(camera.cast) * np.exp(rng.normal(0, 0.03, 3))
    pixels *= (cast * light).astype(np.float32)
    noise = _noise(rng, pixels.shape[0], pixels.shape[1])
    pixels += noise * np.float32(camera.noise * rng.uniform(0.5, 1.5))
    np.clip(pixels, 0, 255, out=pixels)
    return Image.fromarray(pixels.astype(np.uint8))


def _noise(rng: Generator, height: int, width: int) -> NDArray[np.float32]:
    """A section of one large tile of unit noise: a million normals a photo would be slow."""
    tile = _noise_tile()
    y = int(rng.integers(tile.shape[0] - height + 1))
    x = int(rng.integers(tile.shape[1] - width + 1))
    cut = tile[y : y + height, x : x + width]
    return cut[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))]


@lru_cache(maxsize=1)
def _noise_tile() -> NDArray[np.float32]:
    return np.random.default_rng(20).standard_normal((1000, 1400, 3), dtype=np.float32)


@lru_cache(maxsize=3)
def digits(split: Split) -> tuple[NDArray[np.float32], ...]:
    """Handwritten 8x8 images of 0..9 with ink in 0..1, for this split only: `[unit][k, 8, 8]`."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # Shuffled once: the file is ordered by writer, and every split should see several hands.
    order = np.random.default_rng(8).permutation(len(data.target))
    part = {"train": order[:1397], "tune": order[1397:1547], "test": order[1547:]}[split]
    images = (data.images[part] / 16).astype(np.float32)
    targets = data.target[part]
    return tuple(images[targets == unit] for unit in range(10))
