"""Encoded sounds to float samples at their own rate."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipelines.errors import BadInput
from pipelines.media.limits import DecodedAudio, InputLimits
from pipelines.types import PcmFormat

_BLOCK_FRAMES = 1 << 16
_UNKNOWN_FRAMES = (
    1 << 62
)  # what libsndfile reports for a FLAC that was streamed while it was recorded
_FORMATS = {
    "WAV": ("WAV", "WAVEX", "RF64"),
    "FLAC": ("FLAC",),
    "OGG": ("OGG",),
    "MP3": ("MPEG", "MP3"),
    "AIFF": ("AIFF",),
}


def decode_audio(data: bytes, format: str, field: str, limits: InputLimits) -> DecodedAudio:
    """`format` is one of sniff.AUDIO_CODECS except PCM, as found in the content. Raises
    BadInput."""
    _check_claim(data, format, field)
    try:
        with soundfile.SoundFile(_Source(data)) as file:
            if file.format not in _FORMATS[format]:
                raise BadInput(
                    field, "AUDIO_UNDECODABLE", f"begins as {format} but holds {file.format}."
                )
            _check_layout(file.samplerate, file.channels, field, limits)
            wave = _read(file, field, limits)
            codec, rate = _codec(format, file.subtype), file.samplerate
    except (soundfile.LibsndfileError, RuntimeError, ValueError, OverflowError) as error:
        raise BadInput(
            field,
            "AUDIO_UNDECODABLE",
            f"not a whole {format} file ({_why(error)}); send the complete file.",
        ) from None
    return _checked(DecodedAudio(wave, rate, codec, len(data)), field, limits)


def decode_pcm(data: bytes, pcm: PcmFormat | None, field: str, limits: InputLimits) -> DecodedAudio:
    """Headerless samples, interleaved. `field` is the path of the part. Raises BadInput."""
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
    """The bytes as libsndfile reads them. Broken files make it seek to impossible positions: then
    `seek` returns the current position, where BytesIO would raise inside a C callback."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.tell = self._file.tell
        self.readinto = self._file.readinto

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (ValueError, OverflowError):
            return self._file.tell()


def _why(error: Exception) -> str:
    """libsndfile's own message, without the buffer address that soundfile adds."""
    return str(getattr(error, "error_string", error)).strip()


def _codec(format: str, subtype: str) -> str:
    """The container, or for Ogg the codec inside it."""
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
    """Checks the length in a header, and the running count while reading, against one limit."""
    if frames > limits.max_audio_s * rate or frames * channels > limits.max_audio_values:
        raise BadInput(
            field,
            "AUDIO_TOO_LONG",
            f"{frames / rate:.1f} s in {channels} channels; the limits are "
            f"{limits.max_audio_s:g} s and {limits.max_audio_values} samples in all channels. "
            "Send a shorter clip.",
        )


def _read(file: soundfile.SoundFile, field: str, limits: InputLimits) -> NDArray[np.float32]:
    """float32 [T, channels], read block by block: the header's length is not trusted for memory."""
    if file.frames >= _UNKNOWN_FRAMES:
        raise BadInput(
            field,
            "AUDIO_LENGTH_UNKNOWN",
            "the header does not give the length of the sound; re-encode it to a file.",
        )
    _check_length(file.frames, file.samplerate, file.channels, field, limits)
    blocks, frames = [], 0
    while True:
        block = file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
        frames += len(block)
        _check_length(frames, file.samplerate, file.channels, field, limits)
        if not len(block):
            break
        blocks.append(block)
    if frames < file.frames:
        raise _truncated(field, f"{file.frames} frames", f"{frames}")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks or [block])


def _truncated(field: str, promised: str, present: str) -> BadInput:
    return BadInput(
        field,
        "AUDIO_TRUNCATED",
        f"the header promises {promised}, the file holds {present}; send the complete file.",
    )


def _check_claim(data: bytes, format: str, field: str) -> None:
    """Refuses a file whose container declares more data than the file holds.

    libsndfile silently shortens such files, which would turn a broken upload into another sound.
    """
    if format in ("WAV", "AIFF"):
        promised, present = _sample_chunk(data, little=format == "WAV")
        if promised > present:
            raise _truncated(field, f"{promised} bytes of samples", f"{present}")
    if format == "OGG" and not _ogg_ends(data):
        raise BadInput(
            field,
            "AUDIO_TRUNCATED",
            "the Ogg stream has no last page; send the complete file.",
        )


_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # from a writer that could not seek back


def _sample_chunk(data: bytes, little: bool) -> tuple[int, int]:
    """(bytes of samples declared, bytes present); (0, 0) when the file does not declare any."""
    layout, wanted = ("<4sI", b"data") if little else (">4sI", b"SSND")
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack(layout, data[at : at + 8])
        if name == wanted:
            return (0, 0) if size in _UNKNOWN_SIZES else (size, len(data) - at - 8)
        at += 8 + size + (size & 1)
    return 0, 0


def _ogg_ends(data: bytes) -> bool:
    """Whether the last page carries the end-of-stream flag and is complete (RFC 3533)."""
    at = data.rfind(b"OggS")
    if at < 0 or at + 27 > len(data) or not data[at + 5] & 0x04:
        return False
    segments = data[at + 27 : at + 27 + data[at + 26]]
    return at + 27 + len(segments) + sum(segments) <= len(data)


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
    flat = audio.wave.reshape(-1)
    power = float(np.dot(flat, flat)) / flat.size
    level = 10.0 * math.log10(power) if power > 0.0 else -math.inf
    if level < limits.min_audio_rms_dbfs:
        raise BadInput(
            field,
            "AUDIO_SILENT",
            f"the level is {level:.1f} dBFS; below {limits.min_audio_rms_dbfs:g} dBFS there is no "
            "signal. Check the microphone, or leave the part out.",
        )
    return audio
