"""Decoders: what they may do, and what happens to a row when one takes too long, dies or lies."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipelines.errors import BadInput
from pipelines.media import packed
from pipelines.media.decode import decode
from pipelines.media.limits import DecodedImage, InputLimits
from pipelines.types import Part, PcmFormat
from proto import observe_pb2
from server.commands.output.status_report import report
from server.ops.otel_setup import state_of
from server.replica.decoding import sandbox
from server.replica.decoding.arena import KEPT_BYTES, Arena
from server.replica.decoding.nursery import Nursery, NurseryLost
from server.replica.decoding.parts import PartDecoders
from server.replica.decoding.pool import DecoderPool, DecoderRefused, DecodingSettings, EncodedPart
from server.replica.fault_guard import Failed
from tests.support import media_bytes as made
from tests.support import probing_decoder
from tests.support.patience import patience
from tests.support.running import idle_engine
from tests.support.stopped import stop

MIB = 1 << 20
LIMITS = InputLimits()
SETTINGS = DecodingSettings(asdict(LIMITS), LIMITS.max_part_bytes, 4 * MIB)
LONG_S = 600.0  # of processor time: never reached
DATA = packed.part_values(Part("image", b""))


@pytest.fixture(scope="module")
def probing() -> Iterator[DecoderPool]:
    """One decoder that does what it is asked for."""
    pool = DecoderPool(1, SETTINGS, probing_decoder.nursery())
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def real() -> Iterator[PartDecoders]:
    decoders = PartDecoders(2, LIMITS, Nursery())
    decoders.pool.start()
    yield decoders
    decoders.pool.close()


def asked(*commands: str) -> list[EncodedPart]:
    return [EncodedPart(f"parts[{n}]", DATA, text.encode()) for n, text in enumerate(commands)]


def ask(pool: DecoderPool, command: str, allowed_s: float = LONG_S) -> str:
    with pool.row() as row:
        (values,), refused = row.decode(asked(command), allowed_s)
        assert refused is None
        decoded = packed.unpack(values, row.block(packed.size_of(values)))
        assert isinstance(decoded, str)
        return decoded


def decoded_by(decoders: PartDecoders, part: Part) -> object:
    with decoders.row([part]) as decode_part:
        return decode_part(part, "parts[0]", LIMITS)


# ---- what it may do ------------------------------------------------------------------------------


def test_a_decoder_can_neither_open_connect_start_nor_signal_anything(probing: DecoderPool) -> None:
    outcomes = json.loads(ask(probing, "try it"))
    assert probing.sandbox == "seccomp and limits"
    assert outcomes == {name: "PermissionError" for name in probing_decoder.FORBIDDEN}


def test_a_decoder_has_a_limit_of_memory_that_costs_its_row_only(probing: DecoderPool) -> None:
    assert ask(probing, f"allocate {SETTINGS.heap // 2}") == str(SETTINGS.heap // 2)
    with pytest.raises(MemoryError):
        ask(probing, f"allocate {2 * SETTINGS.heap}")
    assert ask(probing, "next").endswith(" next")


def test_limits_hold_where_the_kernel_takes_no_filter() -> None:
    pid = os.fork()
    if pid == 0:  # a copy of this process, which must not run its tests
        try:
            held = sandbox.shut_in(64 << 30, machine="riscv64")
            os._exit(0 if held == "limits only (no list of system calls for riscv64)" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_does_not_list(machine: str) -> None:
    """Every jump stays within the program, and its last instruction refuses."""
    steps = list(struct.iter_unpack("=HBBI", sandbox.program(machine, 7)))
    for number, (code, if_true, if_false, _) in enumerate(steps):
        if code in (0x15, 0x45):
            assert number + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1] == (0x06, 0, 0, 0x00050001)
    allowed = [step for step in steps if step == (0x06, 0, 0, 0x7FFF0000)]
    assert len(allowed) == 26  # 23 plain calls and three that are looked into


def test_the_process_decoders_come_from_loads_no_torch(real: PartDecoders) -> None:
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in real.pool.pids]
    assert maps and not any("libtorch" in text for text in maps)


# ---- what comes back -----------------------------------------------------------------------------


def every_kind() -> dict[str, Part]:
    picture = Image.fromarray(made.photo(120, 160))
    found = {
        f"{form} {mode}": Part("image", made.image(form, picture.convert(mode)))
        for form, modes in {
            "JPEG": ("RGB", "L", "CMYK"),
            "PNG": ("RGB", "RGBA", "P", "L", "1", "I;16"),
            "WEBP": ("RGB", "RGBA"),
            "GIF": ("P",),
            "BMP": ("RGB", "P", "1"),
            "TIFF": ("RGB", "L", "CMYK", "LAB", "YCbCr", "I;16"),
        }.items()
        for mode in modes
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        found[f"{form} turned"] = Part("image", made.image(form, picture, exif=exif.tobytes()))
    for scheme in ("packbits", "tiff_lzw", "tiff_adobe_deflate"):
        found[scheme] = Part("image", made.image("TIFF", picture, compression=scheme))
    found["progressive"] = Part("image", made.image("JPEG", picture, progressive=True))
    found["broken exif"] = Part("image", made.image("JPEG", picture, exif=b"Exif\0\0II*\0\xff"))
    found["cut"] = Part("image", made.image("JPEG", picture)[:-300])
    found["cut png"] = Part("image", made.png(30, 40, 1))
    found["nothing known"] = Part(None, b"\1\2\3\0")
    found["text in bytes"] = Part(None, "später".encode())
    for form in ("WAV", "FLAC", "AIFF", "OGG", "MP3"):
        found[form] = Part("audio", made.sound(made.tone(0.5), form=form))
    found["OPUS"] = Part("audio", made.sound(made.tone(1, 48_000), 48_000, "OGG", "OPUS"))
    found["silence"] = Part("audio", made.sound(np.zeros(16_000, np.float32)))
    return found


@pytest.mark.parametrize("name", every_kind())
def test_what_a_decoder_returns_is_what_the_library_decodes(name: str, real: PartDecoders) -> None:
    part = every_kind()[name]
    try:
        expected: object = decode(part, "parts[0]", LIMITS)
    except Exception as error:
        with pytest.raises(type(error)) as caught:
            decoded_by(real, part)
        assert str(caught.value) == str(error)
        return
    with real.row([part]) as decode_part:
        found = decode_part(part, "parts[0]", LIMITS)
        assert type(found) is type(expected)
        if isinstance(expected, str):
            assert found == expected
            return
        for field in expected.__slots__:
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_parts_of_a_row_do_not_overwrite_each_other(real: PartDecoders) -> None:
    parts = [Part("image", made.image(picture=Image.fromarray(made.photo(seed=n)))) for n in (1, 2)]
    with real.row(parts) as decode_part:
        found = [decode_part(part, "parts[0]", LIMITS) for part in parts]
        for part, one in zip(parts, found, strict=True):
            expected = decode(part, "", LIMITS)
            assert isinstance(one, DecodedImage) and isinstance(expected, DecodedImage)
            np.testing.assert_array_equal(one.pixels, expected.pixels)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"type": "image", "shape": [1 << 20, 1 << 20, 3]},
        {"type": "image", "shape": [2, 2, 4]},
        {"type": "image", "shape": [-2, -2, 3]},
        {"type": "image", "shape": [True, 2, 3]},
        {"type": "audio", "shape": [4]},
        {"type": "text", "size": -1},
        {"type": "image", "shape": [1, 1, 3], "sent": [1, 1], "format": "PNG\n", "mode": "RGB"},
    ],
    ids=str,
)
def test_values_that_no_decoder_of_ours_sends_are_not_believed(values: dict[str, object]) -> None:
    arena = Arena(4096, 4096)
    with pytest.raises(ValueError):
        packed.unpack(values, arena.output(0, packed.size_of(values)))


def test_what_a_large_row_took_is_given_back() -> None:
    arena = Arena(64 * MIB, 64 * MIB)
    arena.put([bytes(48 * MIB)])
    arena.output(0, 48 * MIB)[:] = bytes(48 * MIB)
    blocks = os.fstat(arena.descriptor).st_blocks * 512
    assert blocks == 96 * MIB
    arena.trim()
    assert os.fstat(arena.descriptor).st_blocks * 512 <= 2 * KEPT_BYTES


def test_a_decoder_cannot_shrink_the_arena() -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(Arena(4096, 4096).descriptor, 0)


# ---- when it goes wrong --------------------------------------------------------------------------


def test_a_part_that_takes_too_long_is_refused_and_the_next_is_served(probing: DecoderPool) -> None:
    ask(probing, "first")
    before = probing.counts.deadlines, probing.counts.restarts
    with pytest.raises(DecoderRefused) as caught:
        ask(probing, "spin", allowed_s=0.2)
    assert (caught.value.field, caught.value.reason) == ("parts[0].data", "DECODING_TOO_LONG")
    assert "0.2 s" in caught.value.message and "baseline JPEG" in caught.value.message
    assert ask(probing, "next").endswith(" next")
    assert (probing.counts.deadlines, probing.counts.restarts) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize("command", ["spin", "crash"])
def test_of_parts_that_go_together_the_one_to_blame_is_named(
    command: str, probing: DecoderPool
) -> None:
    with probing.row() as row, pytest.raises(DecoderRefused) as caught:
        row.decode(asked("first", command, "third"), 0.2)
    assert caught.value.field == "parts[1].data"


def test_of_parts_that_go_together_those_before_a_refused_one_are_kept(real: PartDecoders) -> None:
    good, bad = Part("image", made.image()), Part("image", made.image()[:100])
    with real.row([good, bad, good]) as decode_part:
        assert isinstance(decode_part(good, "parts[0]", LIMITS), DecodedImage)
        with pytest.raises(BadInput) as caught:
            decode_part(bad, "parts[1]", LIMITS)
    assert caught.value.field == "parts[1].data"


def test_the_parts_of_a_row_share_its_processor_time(probing: DecoderPool) -> None:
    pool = DecoderPool(1, replace(SETTINGS, row_cpu_s=0.3), probing_decoder.nursery())
    try:
        with pool.row() as row:
            row.decode(asked("first"), LONG_S)
            with pytest.raises(DecoderRefused, match="0.3 s"):
                row.decode(asked("spin"), LONG_S)
            with pytest.raises(DecoderRefused):
                row.decode(asked("spin"), LONG_S)
    finally:
        pool.close()


def test_a_decoder_that_gets_no_processor_is_not_the_callers_fault() -> None:
    pool = DecoderPool(1, replace(SETTINGS, row_wait_s=0.3), probing_decoder.nursery())
    try:
        pool.start()
        stop(pool.pids[0])
        with pytest.raises(Failed) as caught:
            ask(pool, "first")
        assert caught.value.fault.code == "RESOURCE_EXHAUSTED"
        assert caught.value.fault.reason == "DECODER_STARVED"
    finally:
        pool.close()


def test_a_crash_is_tried_once_more_and_then_refused(probing: DecoderPool) -> None:
    ask(probing, "first")
    before = probing.counts.restarts
    with pytest.raises(DecoderRefused) as caught:
        ask(probing, "crash")
    assert caught.value.reason == "DECODER_CRASHED" and "SIGSEGV" in caught.value.message
    assert ask(probing, "next").endswith(" next")
    assert probing.counts.restarts == before + 2


def test_a_decoder_that_leaves_is_no_proof_against_the_part(probing: DecoderPool) -> None:
    with pytest.raises(Failed) as caught:
        ask(probing, "leave")
    assert (caught.value.fault.code, caught.value.fault.reason) == ("UNAVAILABLE", "DECODER_LOST")
    assert ask(probing, "next").endswith(" next")


@pytest.mark.parametrize("command", ["raise", "chatter"])
def test_an_error_of_ours_is_not_called_the_callers(command: str, probing: DecoderPool) -> None:
    settings = replace(SETTINGS, outputs=4096)
    pool = DecoderPool(1, settings, probing_decoder.nursery())
    try:
        with pytest.raises(RuntimeError, match="in a decoder: (AttributeError|ValueError)"):
            ask(pool, command)
        assert ask(pool, "next").endswith(" next")
    finally:
        pool.close()


def test_a_decoder_killed_at_work_is_replaced_and_its_row_answered(real: PartDecoders) -> None:
    """Stopped first, so that it certainly has the part when it is killed."""
    part = Part("image", made.image())
    with real.row([part]) as decode_part:
        decode_part(part, "parts[0]", LIMITS)
    pids = real.pool.pids
    for pid in pids:
        stop(pid)
    found: list[object] = []
    row = threading.Thread(target=lambda: found.append(decoded_by(real, part)))
    row.start()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    row.join(patience(20))
    assert isinstance(found[0], DecodedImage)
    assert isinstance(decoded_by(real, part), DecodedImage)


def test_when_the_process_they_come_from_is_killed_there_is_another(real: PartDecoders) -> None:
    parent = psutil.Process(real.pool.pids[0]).parent()
    assert parent is not None
    parent.kill()
    parent.wait(patience(20))
    assert isinstance(decoded_by(real, Part("image", made.image())), DecodedImage)


def test_decoders_end_with_their_replica() -> None:
    pool = DecoderPool(2, SETTINGS, probing_decoder.nursery())
    pool.start()
    processes = [psutil.Process(pid) for pid in pool.pids]
    pool.close()
    gone, alive = psutil.wait_procs(processes, timeout=patience(20))
    assert len(gone) == 2 and not alive


def test_decoders_that_cannot_be_started_are_an_answer_too() -> None:
    pool = DecoderPool(1, SETTINGS, Nursery(("/bin/false",)))
    with pytest.raises(NurseryLost):
        pool.start()
    with pytest.raises(Failed) as caught:
        ask(pool, "anything")
    assert caught.value.fault.code == "UNAVAILABLE"


def test_status_and_metrics_count_decoders() -> None:
    snapshot = observe_pb2.ServerSnapshot()
    assert "decoders" not in report(snapshot, 0.0)
    snapshot.replicas.add(decoder_restarts=3, decoder_deadlines=1)
    line = "decoders 3 restarted, 1 of them because a part took too long"
    assert line in report(snapshot, 0.0)
    now = idle_engine().snapshot()
    replica = replace(now.replicas[0], decoder_restarts=3, decoder_deadlines=1, decoder_lines=4)
    readings = {
        reading.name: reading.value
        for reading in state_of(replace(now, replicas=(replica, replica)))
    }
    assert readings["trefoil.decoder.restarts"] == 6
    assert readings["trefoil.decoder.deadlines"] == 2
    assert readings["trefoil.decoder.lines"] == 8


# ---- which way a row goes ------------------------------------------------------------------------


def test_lanes(real: PartDecoders) -> None:
    small = Part("image", made.image("JPEG", Image.fromarray(made.photo(480, 640))))
    tone = Part("audio", made.sound(made.tone(2)))
    text = Part("text", "all quiet")
    pcm = Part("audio", bytes(32_000), pcm=PcmFormat(16_000, 1, "s16le"))
    assert real.lane([text]) == real.lane([text, pcm]) == "direct"
    assert real.lane([Part("text", "a" * 66_000), text]) == "light"
    assert real.lane([small, tone, text]) == "light"
    large = made.image("WEBP", Image.new("RGB", (5000, 5000)))
    assert real.lane([text, Part(None, large)]) == "heavy"
    assert real.lane([Part("image", small.data[:20])]) == "heavy"  # of unknown size
    assert real.lane([Part("audio", bytes(3 * MIB))]) == "heavy"
    assert real.lane([]) == "direct"
