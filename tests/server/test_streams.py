"""A failed print has no other effect: a server serves and drains without a working log, and a
command finishes its work."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from server.commands.feedback import AT_ONCE
from server.main import main
from server.ops.event_log import EventLog, Sparingly, install, uninstall, writer
from tests.support.patience import patience
from tests.support.running import ROOT, program

SERVER = (sys.executable, "-m", "server.main")
READY_WITHIN_S = 180.0
PIPE_BYTES = 4096


@contextmanager
def broken_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@contextmanager
def full_disk() -> Iterator[int]:
    writing = os.open("/dev/full", os.O_WRONLY)
    yield writing
    os.close(writing)


@contextmanager
def full_pipe() -> Iterator[int]:
    """Its reader is alive and reads nothing, as behind a pager."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    os.write(writing, b" " * PIPE_BYTES)
    yield writing
    os.close(reading)
    os.close(writing)


NOWHERE = [broken_pipe, full_disk, full_pipe]


def free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return int(attempt.getsockname()[1])


def until_ready(process: subprocess.Popen[bytes], address: str) -> None:
    """Asked in this process: the start of another, again and again, slows that of the server."""
    end = time.monotonic() + patience(READY_WITHIN_S)
    while main(["probe", "--server", address]) != 0:
        assert process.poll() is None, f"the server has ended with {process.returncode}"
        assert time.monotonic() < end, "the server did not become ready"
        time.sleep(0.2)


@pytest.mark.parametrize("nowhere", NOWHERE)
def test_a_server_that_cannot_print_serves_and_drains(
    nowhere: Callable[[], AbstractContextManager[int]], tiny_bundle: Path, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    flags = ("--bundle", str(tiny_bundle), "--listen", address, "--data", str(tmp_path))
    with nowhere() as stream:
        process = subprocess.Popen([*SERVER, *flags], cwd=ROOT, stdout=stream, stderr=stream)
        try:
            until_ready(process, address)
            process.send_signal(signal.SIGTERM)
            assert process.wait(patience(60)) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_goes_away_later_does_not_keep_a_server_alive(
    number: signal.Signals, tiny_bundle: Path
) -> None:
    """As `server | tee log` whose tee ended at the same Ctrl-C."""
    with program("--bundle", str(tiny_bundle)) as server:
        assert server.process.stdout is not None
        descriptor = server.process.stdout.fileno()
        # The reader's end is closed, and the thread that reads it finds an end of file instead.
        os.dup2(os.open(os.devnull, os.O_RDONLY), descriptor)
        server.process.send_signal(number)
        assert server.process.wait(patience(60)) == 0


def test_a_closed_output_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "bundles").mkdir()
    command = f"{sys.executable} -m server.main bundles --data {tmp_path} >&- 2>&- <&-"
    assert subprocess.run(["sh", "-c", command], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("of", ["server", "pipelines"])
def test_output_that_is_lost_is_reported_with_an_exit_code(
    of: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "bundles").mkdir()
    arguments = {"server": ["bundles", "--data", tmp_path], "pipelines": ["inspect", tiny_bundle]}[
        of
    ]
    with full_disk() as stream:
        command = [sys.executable, "-m", f"{of}.main", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74
    assert done.stderr == f"{of}: cannot write the output: No space left on device\n"


def test_a_command_goes_on_when_its_reader_is_gone(tiny_server: str, tmp_path: Path) -> None:
    """What follows the first printed line was not sent before."""
    predict = [*SERVER, "predict", "--server", tiny_server, "--text", "hum", "--json"]
    done = subprocess.run(predict, cwd=ROOT, capture_output=True, text=True, check=True)
    outcome = {"prediction_id": json.loads(done.stdout)["prediction_id"], "label": "watch"}
    unknown = json.dumps({"prediction_id": "nobody", "label": "yes"})
    outcomes = tmp_path / "outcomes.jsonl"
    outcomes.write_text("\n".join([*([unknown] * AT_ONCE), json.dumps(outcome)]))
    send = [*SERVER, "feedback", "--server", tiny_server]
    with broken_pipe() as stream:
        command = [*send, "--file", str(outcomes)]
        subprocess.run(command, cwd=ROOT, stdout=stream, stderr=stream, timeout=patience(60))
    outcomes.write_text(json.dumps(outcome))
    again = [*send, "--file", str(outcomes)]
    answer = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, timeout=patience(60))
    assert answer.stdout == "1 duplicate\n", answer.stderr


# ---- the log -------------------------------------------------------------------------------------


def test_a_text_line_has_time_level_component_and_ids() -> None:
    lines: list[str] = []
    log = EventLog(lines.append)
    record = logging.LogRecord("server.pool.pool", logging.WARNING, "", 0, "gone\n%s", ("x",), None)
    record.request_id = "r-1"
    log.emit(record)
    log.close()
    (line,) = lines
    assert line.endswith("Z WARNING server pool: gone x request_id=r-1"[2:]) and line[10] == "T"


def test_a_json_line_is_an_object_with_the_trace_of_an_error() -> None:
    lines: list[str] = []
    log = EventLog(lines.append, "json", "replica 0")
    logger = logging.getLogger("server.replica.test")
    logger.addHandler(log)
    try:
        raise KeyError("lost")
    except KeyError:
        logger.exception("a stage failed", extra={"prediction_id": "p-1"})
    logger.removeHandler(log)
    log.close()
    found = json.loads(lines[0])
    assert found["level"] == "error" and found["component"] == "replica 0"
    assert found["message"] == "a stage failed" and found["prediction_id"] == "p-1"
    assert "KeyError: 'lost'" in found["exception"]


def test_logging_never_waits_and_lost_lines_are_counted() -> None:
    """More lines than may wait, while the writer stands still."""
    let, written = threading.Event(), []

    def write(line: str) -> None:
        let.wait()
        written.append(line)

    log = EventLog(write)
    for number in range(10_100):
        log.emit(logging.LogRecord("server", logging.INFO, "", 0, "%d", (number,), None))
    let.set()
    log.close()
    lost = [line for line in written if "could not be written" in line]
    assert len(written) - len(lost) in (10_000, 10_001) and "lines of this log" in lost[0]


def test_other_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    log = install(sys.stdout, "text", "info")
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("server").info("ours")
    logging.getLogger("grpc").warning("a warning")
    uninstall(log)
    out = capsys.readouterr().out
    assert "chatter" not in out and "server: ours" in out and "server grpc: a warning" in out
    assert "\033[" not in out  # colours only on a terminal


def test_colours_only_on_a_terminal() -> None:
    leader, follower = os.openpty()
    with open(follower, "w") as terminal:
        log = install(terminal, "text", "info")
        logging.getLogger("server").warning("look")
        uninstall(log)
        assert b"\033[33mWARNING" in os.read(leader, 1000)
    os.close(leader)


def test_without_an_output_nothing_is_written() -> None:
    writer(None)("nowhere")


def test_refusals_are_logged_sparingly() -> None:
    now = 0.0
    sparingly = Sparingly(each=2, per_s=1.0, clock=lambda: now)
    assert [sparingly.take() for _ in range(4)] == [0, 0, None, None]
    now = 1.0
    assert [sparingly.take() for _ in range(2)] == [2, 0]
