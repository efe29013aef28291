"""Decodes sounds to float samples at their own rate."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.errors import BadInput
from pipelines.media import flac, mpeg, ogg, riff, work
from pipelines.media.limits import LENGTH_WRONG, DecodedAudio, InputLimits
from pipelines.types import PcmFormat

_BLOCK_FRAMES = 1 << 16
_FORMATS = {
    "WAV": ("WAV", "WAVEX", "RF64"),
    "FLAC": ("FLAC",),
    "OGG": ("OGG",),
    "MP3": ("MPEG", "MP3"),
    "AIFF": ("AIFF",),
}


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A file in a form that libsndfile reads correctly: its links, each as a file of its own, and a
    warning or "". `claim` is the number of frames in the header if the decoded length must be
    compared with it, else 0."""

    links: Sequence[bytes]
    warning: str = ""
    claim: int = 0


def decode_audio(data: bytes, format: str, field: str, limits: InputLimits) -> DecodedAudio:
    """`format` is one of sniff.AUDIO_CODECS except PCM, as found in the content. Raises
    BadInput."""
    usual = riff.pcm16(data) if format == "WAV" else None
    if usual is not None:
        return _decode_pcm16(data, usual, field, limits)
    frames_at = riff.mp3(data) if format == "WAV" else None
    if frames_at is not None:
        inner = decode_audio(data[frames_at], "MP3", field, limits)
        return replace(inner, payload_bytes=len(data))
    work.check(data, format, field)
    encoded = _completed(data, format, field, limits)
    waves: list[NDArray[np.float32]] = []
    layout, codec, frames = (0, 0), "", 0
    try:
        for link in encoded.links:
            with _Stream(_Source(link)) as file:
                if file.format not in _FORMATS[format]:
                    message = f"begins as {format} but holds {file.format}."
                    raise BadInput(field, "AUDIO_UNDECODABLE", message)
                _check_layout(file.samplerate, file.channels, field, limits)
                if layout not in ((0, 0), (file.samplerate, file.channels)):
                    raise _chained(field)
                layout = file.samplerate, file.channels
                codec = _codec(format, file.subtype)
                waves.append(_read(file, frames, format, field, limits))
                frames += len(waves[-1])
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError) as error:
        raise BadInput(
            field,
            "AUDIO_UNDECODABLE",
            f"not a whole {format} file ({_why(error)}); send the complete file.",
        ) from None
    if frames < encoded.claim:
        raise _truncated(field, f"{encoded.claim} frames", f"{frames}")
    warning = encoded.warning or (LENGTH_WRONG if 0 < encoded.claim < frames else "")
    wave = waves[0] if len(waves) == 1 else np.concatenate(waves)
    return _checked(DecodedAudio(wave, layout[0], codec, len(data), warning), field, limits)


def _decode_pcm16(data: bytes, layout: riff.Pcm16, field: str, limits: InputLimits) -> DecodedAudio:
    """Decodes the most common kind of sound without libsndfile; the result is equal bit for bit."""
    _check_layout(layout.rate, layout.channels, field, limits)
    frames = layout.size // (2 * layout.channels)
    _check_length(frames, layout.rate, layout.channels, field, limits)
    samples = np.frombuffer(data, "<i2", frames * layout.channels, layout.at)
    wave = samples.astype(np.float32).reshape(frames, layout.channels)
    wave /= np.float32(32768.0)
    return _checked(DecodedAudio(wave, layout.rate, "WAV", len(data)), field, limits)


def _completed(data: bytes, format: str, field: str, limits: InputLimits) -> _Encoded:
    """Checks length and completeness from the container's own fields. Raises BadInput."""
    if format in ("WAV", "AIFF"):
        found = riff.chunks(data, format)
        if found is None:
            return _Encoded((data,))
        if found.layout is not None:
            _check_layout(found.layout.rate, found.layout.channels, field, limits)
        whole, warning = riff.completed(data, found, field)
        return _Encoded((whole,), warning)
    if format == "MP3":
        counted = mpeg.counted(data, field, limits.max_audio_s)
        _check_length(counted.samples - 2 * 1152, counted.rate, 1, field, limits)
        return _Encoded((counted.data,), counted.warning)
    if format == "OGG":
        links, warning = ogg.links(data, field, limits.max_audio_s)
        return _Encoded(links, warning)
    return _flac(data, field, limits)


def _flac(data: bytes, field: str, limits: InputLimits) -> _Encoded:
    """Removes the length from the header; the decoded length is compared with it at the end."""
    found = flac.judged(data, field)
    if found is None:
        return _Encoded((data,))
    rate, channels = found.layout.rate, found.layout.channels
    if found.claim:
        _check_length(found.claim, rate or 1, channels, field, limits)
    return _Encoded((found.data,), found.warning, found.claim)


def _chained(field: str) -> BadInput:
    return BadInput(
        field,
        "AUDIO_UNSUPPORTED",
        "a chain of streams of different rates or channels; convert it: ffmpeg -i INPUT OUTPUT.wav",
    )


def decode_pcm(data: bytes, pcm: PcmFormat | None, field: str, limits: InputLimits) -> DecodedAudio:
    """Decodes headerless, interleaved samples. `field` is the path of the part. Raises BadInput."""
    if pcm is None:
        raise BadInput(
            f"{field}.pcm", "PCM_LAYOUT_MISSING", "raw PCM needs its rate, channels and encoding."
        )
    _check_layout(pcm.sample_rate, pcm.channels, f"{field}.pcm", limits)
    types: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
    if pcm.encoding not in types:
        raise BadInput(
            f"{field}.pcm.encoding",
            "PCM_ENCODING",
            f"{pcm.encoding!r} is not decoded here; send s16le or f32le.",
        )
    dtype = types[pcm.encoding]
    if len(data) % (dtype.itemsize * pcm.channels):
        raise BadInput(
            f"{field}.data",
            "AUDIO_TRUNCATED",
            f"{len(data)} bytes are not a whole number of {pcm.channels}-channel {pcm.encoding} "
            "frames; send the complete sound.",
        )
    frames = len(data) // (dtype.itemsize * pcm.channels)
    _check_length(frames, pcm.sample_rate, pcm.channels, f"{field}.data", limits)
    wave = np.frombuffer(data, dtype).astype(np.float32).reshape(frames, pcm.channels)
    if pcm.encoding == "s16le":
        wave /= np.float32(32768.0)
    decoded = DecodedAudio(wave, pcm.sample_rate, f"PCM_{pcm.encoding}", len(data))
    return _checked(decoded, f"{field}.data", limits)


class _Source:
    """The bytes as libsndfile reads them. Broken files make libsndfile seek to impossible
    positions. `seek` then returns the current position, where BytesIO would raise inside a C
    callback."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.tell = self._file.tell
        self.readinto = self._file.readinto

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError):
            return self._file.tell()


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file read from start to end. soundfile seeks after each block of a file that it considers
    seekable, and that fails in a file of unknown length."""

    def seekable(self) -> bool:
        return False


def _why(error: Exception) -> str:
    """libsndfile's own message, without the buffer address that soundfile adds."""
    return str(getattr(error, "error_string", error)).strip()


def _codec(format: str, subtype: str) -> str:
    """The name of the container, or for Ogg of the codec inside it."""
    return subtype if format == "OGG" else format


def _check_layout(rate: int, channels: int, field: str, limits: InputLimits) -> None:
    if not limits.min_audio_rate <= rate <= limits.max_audio_rate:
        raise BadInput(
            field,
            "AUDIO_RATE",
            f"{rate} samples a second; the limits are {limits.min_audio_rate} to "
            f"{limits.max_audio_rate}. Resample it.",
        )
    if not 1 <= channels <= limits.max_audio_channels:
        raise BadInput(
            field,
            "AUDIO_CHANNELS",
            f"{channels} channels; the limit is {limits.max_audio_channels}. Mix it down.",
        )


def _check_length(frames: int, rate: int, channels: int, field: str, limits: InputLimits) -> None:
    """Checks the length from a header, or the count of frames read so far, against one limit."""
    if frames > limits.max_audio_s * rate or frames * channels > limits.max_audio_values:
        raise BadInput(
            field,
            "AUDIO_TOO_LONG",
            f"{frames / rate:.1f} s in {channels} channels; the limits are "
            f"{limits.max_audio_s:g} s and {limits.max_audio_values} samples in all channels. "
            "Send a shorter clip.",
        )


def _read(
    file: soundfile.SoundFile, before: int, format: str, field: str, limits: InputLimits
) -> NDArray[np.float32]:
    """float32 [T, channels], read block by block, because the length in the header is not trusted
    for an allocation. `before`: frames of the preceding links."""
    known = format != "FLAC"  # its length was removed from the header
    if known:
        _check_length(before + file.frames, file.samplerate, file.channels, field, limits)
    blocks, frames = [], 0
    while True:
        block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        frames += len(block)
        _check_length(before + frames, file.samplerate, file.channels, field, limits)
        if not len(block):
            break
        blocks.append(block)
    if known and frames < file.frames:
        raise _truncated(field, f"{file.frames} frames", f"{frames}")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [block])


def _truncated(field: str, promised: str, present: str) -> BadInput:
    return BadInput(
        field,
        "AUDIO_TRUNCATED",
        f"the header promises {promised}, the file holds {present}; send the complete file.",
    )


def _checked(audio: DecodedAudio, field: str, limits: InputLimits) -> DecodedAudio:
    """Refuses samples that would spoil every later number."""
    frames = audio.wave.shape[0]
    if frames == 0 or frames < limits.min_audio_s * audio.sample_rate:
        raise BadInput(
            field,
            "AUDIO_TOO_SHORT",
            f"{frames} samples ({1000 * audio.seconds:.1f} ms); at least "
            f"{1000 * limits.min_audio_s:g} ms are needed.",
        )
    low, high = float(audio.wave.min()), float(audio.wave.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadInput(
            field, "AUDIO_NOT_FINITE", "some samples are NaN or infinite; repair the recording."
        )
    if max(-low, high) > limits.max_audio_peak:
        raise BadInput(
            field,
            "AUDIO_PEAK",
            f"samples reach {max(-low, high):g}; the limit is {limits.max_audio_peak:g}, full "
            "scale is 1. Scale them.",
        )
    # As the model gets it: two channels of opposite sign are silence once they are mixed.
    mixed = audio.wave @ np.full(audio.channels, 1.0 / audio.channels, dtype=np.float32)
    power = float(np.dot(mixed, mixed)) / mixed.size
    level = 10.0 * math.log10(power) if power > 0.0 else -math.inf
    if level < limits.min_audio_rms_dbfs:
        raise BadInput(
            field,
            "AUDIO_SILENT",
            f"the level is {level:.1f} dBFS, all channels mixed; below "
            f"{limits.min_audio_rms_dbfs:g} dBFS there is no signal. Check the microphone, or "
            "leave the part out.",
        )
    return audio
