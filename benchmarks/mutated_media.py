"""Damaged files, with other decoders as the reference:

    python -m benchmarks.mutated_media [--files 20000] [--seconds 3600] [--seed 1]

Every supported kind of file is made by code, with bits flipped, ends cut off, headers of other
files and extreme lengths. Counted are crashes (the process died, or raised anything but BadInput),
hangs (more than 2 s of CPU time), and silent differences: an answer without a warning whose length
or size is more than 1 % from what an independent decoder reads (ffmpeg for sounds, ImageMagick's
identify and djpeg for pictures; a program that is not installed is named and left out). Exits 1
when any count is not zero. A file that fails is written to `--keep DIR`, named by its seed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.media_seeds import Seed, seeds
from tests.fuzz.mutation import mutated

HANG_S = 2.0
# Wall-clock limit, after which the process is ended: a machine may be busy with other work.
DEAD_S = 60.0
APART = 0.01
BATCH = 50
RATE = 48_000  # sample rate at which sounds are compared
# If no header states a codec's delay, or a decoder cannot read it, some decoders keep the delay and
# others drop it: one block of Vorbis (21 ms); for MP3 the header's own frame, the delay and the
# padding, four frames of 576 samples at 16 kHz (144 ms). These sounds are long enough for this to
# be less than 1 %.
OGG_S = 3.0
MP3_S = 15.0
# An MP3 decoder has a delay of this many samples. ffmpeg removes it if a LAME header gives the
# encoder's delay, and keeps it otherwise; libmpg123 removes it in both cases.
MP3_DELAY = 529
Size = tuple[float, ...]  # (seconds,) for a sound, or (width, height)


@dataclass(frozen=True, slots=True)
class Case:
    number: int
    seed: Seed
    data: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`size`: (seconds,) of a sound or (width, height) in the file; () when it was refused."""

    size: Size = ()
    rate: int = 0  # of a sound, in hertz
    warning: str = ""
    cpu_s: float = 0.0
    error: str = ""  # any exception but BadInput


@dataclass(slots=True)
class Counted:
    files: int = 0
    accepted: int = 0
    warned: int = 0
    compared: int = 0
    no_opinion: int = 0  # accepted here, but unreadable for every reference program
    slowest_s: float = 0.0
    bad: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


def cases(seed: int, files: int) -> Iterator[Case]:
    originals = seeds(OGG_S, MP3_S)
    by_kind = {
        kind: [each.data for each in originals if each.kind == kind] for kind in ("image", "audio")
    }
    for number in range(files):
        rng = random.Random(f"{seed} {number}")
        original = originals[number % len(originals)]
        yield Case(number, original, mutated(rng, original.data, by_kind[original.kind]))


# ---- ours, in a process of its own ---------------------------------------------------------------


def worker(pipe: Connection) -> None:
    from pipelines.errors import BadInput
    from pipelines.media.decode import DecodedAudio, DecodedImage, InputLimits, decode
    from pipelines.types import Part

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # hide the thousands of messages from the decoders
    warnings.simplefilter("ignore")
    limits = InputLimits()
    while True:
        kind, data = pipe.recv()
        began = time.process_time()
        size: Size = ()
        rate, warning, error = 0, "", ""
        try:
            found = decode(Part(kind, data), "parts[0]", limits)
            if isinstance(found, DecodedAudio):
                size, rate, warning = (found.seconds,), found.sample_rate, found.warning
            elif isinstance(found, DecodedImage):
                size, warning = (float(found.sent[0]), float(found.sent[1])), found.warning
        except BadInput:
            pass
        except Exception as caught:  # any class but BadInput is what this test looks for
            error = f"{type(caught).__name__}: {caught}"
        pipe.send(Answer(size, rate, warning, time.process_time() - began, error))


class Decoder:
    """One process, replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=worker, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, case: Case) -> Answer:
        self._pipe.send((case.seed.kind, case.data))
        try:
            if self._pipe.poll(DEAD_S):
                answer: Answer = self._pipe.recv()
                return answer
            error = f"no answer within {DEAD_S:g} s"
        except EOFError:
            self._process.join(10)
            error = f"the process died: {self._process.exitcode}"
        self.close()
        self._start()
        return Answer(error=error)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


# ---- the reference programs ----------------------------------------------------------------------


def output_of(*command: str, limit_s: float = 60.0) -> bytes:
    """The output of a reference program, whatever its exit code; b"" if it hangs or dies."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
    except (subprocess.TimeoutExpired, OSError):
        return b""
    return done.stdout


def heard(path: Path) -> Iterator[Size]:
    """Seconds of sound that ffmpeg decodes, and that ffprobe counts in packets. If there is damage
    inside a packet, ffmpeg drops it, and other programs play what they can."""
    raw = output_of(
        *("ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-map", "0:a:0", "-t", "40"),
        *("-ac", "1", "-ar", str(RATE), "-f", "s16le", "-"),
    )
    if not raw:
        return
    yield (len(raw) / 2 / RATE,)
    packets = output_of(
        *("ffprobe", "-v", "quiet", "-select_streams", "a:0"),
        *("-show_entries", "packet=duration_time", "-of", "csv=p=0", str(path)),
    )
    lengths = (word.strip(b",") for word in packets.split())
    yield (sum(float(word) for word in lengths if word.replace(b".", b"").isdigit()),)


def seen(paths: Sequence[Path]) -> dict[Path, Size]:
    """(width, height) of the canvas of each file's first picture, by identify; for a JPEG that
    identify cannot read, by djpeg. Files that neither reads are left out."""
    found = identified(paths)
    for path in [path for path in paths if path not in found]:
        # One file may have ended the call for all files.
        found |= identified([path])
        if path not in found and path.suffix == ".jpeg" and shutil.which("djpeg"):
            head = output_of("djpeg", str(path))[:40].split()
            if len(head) >= 3:
                found[path] = (float(head[1]), float(head[2]))
    return found


def identified(paths: Sequence[Path]) -> dict[Path, Size]:
    if not paths:
        return {}
    firsts = [f"{path}[0]" for path in paths]
    found: dict[Path, Size] = {}
    for line in output_of("identify", "-format", "%d/%f %W %H\n", *firsts).decode().splitlines():
        name, width, height = line.rsplit(" ", 2)
        found[Path(name)] = (float(width), float(height))
    return found


def apart(ours: Size, theirs: Size) -> bool:
    return any(abs(a - b) > APART * b for a, b in zip(ours, theirs, strict=True))


def sizes(answer: Answer, path: Path) -> list[Size]:
    """The lengths that the reference programs give for a sound, up to the first that agrees."""
    theirs: list[Size] = []
    late_s = MP3_DELAY / answer.rate if path.suffix == ".mp3" else 0.0
    for (seconds,) in heard(path):
        theirs += [(seconds,), (seconds - late_s,)]
        if not all(apart(answer.size, size) for size in theirs):
            break
    return theirs


def found_by_others(
    batch: Sequence[tuple[Case, Answer]], folder: Path, pool: ThreadPoolExecutor
) -> list[list[Size]]:
    """The results of the reference programs for each file."""
    paths = [folder / f"{c.number}.{c.seed.name.split()[0].lower()}" for c, _ in batch]
    try:
        for path, (case, _) in zip(paths, batch, strict=True):
            path.write_bytes(case.data)
        pictures = {p for p, (c, _) in zip(paths, batch, strict=True) if c.seed.kind == "image"}
        shown = pool.submit(seen, sorted(pictures))
        played = {
            path: pool.submit(sizes, answer, path)
            for path, (_, answer) in zip(paths, batch, strict=True)
            if path not in pictures
        }
        return [
            played[path].result()
            if path in played
            else [size for size in [shown.result().get(path)] if size]
            for path in paths
        ]
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


# ---- the run -------------------------------------------------------------------------------------


def run(files: int, seconds: float, seed: int, keep: Path | None = None) -> Counted:
    missing = [tool for tool in ("ffmpeg", "identify", "djpeg") if shutil.which(tool) is None]
    for tool in missing:
        print(f"skipped: {tool} is missing (ffmpeg, imagemagick, libjpeg-turbo-progs)")
    able = {"audio": "ffmpeg" not in missing, "image": "identify" not in missing}
    total, until = Counted(), time.monotonic() + seconds
    decoder = Decoder()
    try:
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
            batch: list[tuple[Case, Answer]] = []
            for case in cases(seed, files):
                answer = decoder.ask(case)
                count(total, case, answer, keep)
                if answer.size and not answer.warning and able[case.seed.kind]:
                    batch.append((case, answer))
                if len(batch) == BATCH:
                    compare(total, batch, Path(name), pool, keep)
                    batch = []
                if time.monotonic() > until:
                    break
            compare(total, batch, Path(name), pool, keep)
    finally:
        decoder.close()
    return total


def count(total: Counted, case: Case, answer: Answer, keep: Path | None) -> None:
    total.files += 1
    total.accepted += bool(answer.size)
    total.warned += bool(answer.warning)
    total.kinds[case.seed.name] += bool(answer.size)
    total.slowest_s = max(total.slowest_s, answer.cpu_s)
    if answer.error:
        blame(total, case, "crash", answer.error, keep)
    if answer.cpu_s > HANG_S:
        blame(total, case, "hang", f"{answer.cpu_s:.1f} s of CPU time", keep)


def compare(
    total: Counted,
    batch: list[tuple[Case, Answer]],
    folder: Path,
    pool: ThreadPoolExecutor,
    keep: Path | None,
) -> None:
    found = found_by_others(batch, folder, pool)
    for (case, answer), theirs in zip(batch, found, strict=True):
        if not theirs:
            total.no_opinion += 1
            continue
        total.compared += 1
        if all(apart(answer.size, size) for size in theirs):
            blame(total, case, "differs", f"ours {answer.size}, theirs {theirs}", keep)


def blame(total: Counted, case: Case, what: str, why: str, keep: Path | None) -> None:
    total.bad.append(f"{what}: {case.seed.name} #{case.number}: {why}")
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / f"{what}-{case.number}-{case.seed.name.replace(' ', '-')}").write_bytes(case.data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Broken files against independent decoders.")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="write files that fail here")
    arguments = parser.parse_args()
    total = run(arguments.files, arguments.seconds, arguments.seed, arguments.keep)
    for line in total.bad:
        print(line)
    kinds = Counter(line.partition(":")[0] for line in total.bad)
    print(
        f"{total.files} files of {len(seeds(OGG_S, MP3_S))} kinds (seed {arguments.seed}): "
        f"{total.accepted} accepted, {total.warned} of them with a warning, "
        f"{total.compared} compared, {total.no_opinion} that no reference program reads; "
        f"{kinds['crash']} crashes, {kinds['hang']} hangs (slowest {total.slowest_s:.2f} s), "
        f"{kinds['differs']} silent differences"
    )
    sys.exit(1 if total.bad else 0)


if __name__ == "__main__":
    main()
