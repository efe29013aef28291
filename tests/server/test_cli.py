"""The command line as scripts see it: fields, exit codes, stderr. On the real program."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from server.commands.flags import config_of, flags_of
from server.config import ServerConfig
from server.main import COMMANDS, parser
from server.values import MIB
from tests.support import media_bytes as made
from tests.support.patience import patience
from tests.support.running import ROOT, asked, program

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("media") / "photo.jpg"
    path.write_bytes(made.image("JPEG"))
    return str(path)


@pytest.fixture(scope="module")
def hum(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("media") / "hum.wav"
    path.write_bytes(made.sound())
    return str(path)


def test_predict_prints_one_object_with_the_fields_scripts_rely_on(
    tiny_server: str, photo: str, hum: str, capsys: Captured
) -> None:
    argv = ("--audio", hum, "--text", "a", "--image", photo, "--text", "b", "--slice", "site=a")
    code, out, _ = asked(capsys, "predict", "--server", tiny_server, *argv, "--json")
    found = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert found["label"] == max(found["scores"], key=found["scores"].get)
    assert found["confidence"] == found["scores"][found["label"]]
    assert sum(found["scores"].values()) == pytest.approx(1.0, abs=1e-5)
    assert list(found["timings_ms"]) == [
        "queue",
        "decode",
        "preprocess",
        "forward",
        "post",
        "total",
    ]
    assert found["timings_ms"]["forward"] > 0
    assert len(found["stamp"]) == 64 and found["stamp"][:12] in found["stamp_name"]
    assert found["batch_size"] >= 1 and len(found["prediction_id"]) == 32


def test_parts_go_in_the_order_given(tiny_server: str, photo: str, capsys: Captured) -> None:
    def scores(*argv: str) -> dict[str, float]:
        _, out, _ = asked(capsys, "predict", "--server", tiny_server, "--json", *argv)
        found: dict[str, float] = json.loads(out)["scores"]
        return found

    first = scores("--text", "hum", "--image", photo)
    other = scores("--image", photo, "--text", "hum")
    assert first == pytest.approx(scores("--text", "hum", "--image", photo), rel=1e-3)
    assert first != pytest.approx(other, rel=1e-3)


def test_predict_without_json_reads_well(tiny_server: str, capsys: Captured) -> None:
    code, out, _ = asked(capsys, "predict", "--server", tiny_server, "--text", "hum")
    assert code == 0
    assert "confidence" in out and "forward" in out and "tiny-" in out


def test_labels_and_embedding_come_when_asked_for(tiny_server: str, capsys: Captured) -> None:
    argv = ("--text", "hum", "--label", "yes", "--label", "no", "--embed", "--json")
    _, out, _ = asked(capsys, "predict", "--server", tiny_server, *argv)
    found = json.loads(out)
    assert set(found["scores"]) == {"yes", "no"}
    assert sum(value**2 for value in found["embedding"]) == pytest.approx(1.0, abs=1e-4)


def test_generate_streams_text_and_ends_with_its_facts(tiny_server: str, capsys: Captured) -> None:
    argv = ("--generate", "--text", "hum", "--max-new-tokens", "5")
    code, out, _ = asked(capsys, "predict", "--server", tiny_server, *argv)
    assert code == 0 and "tokens   " in out and "tiny-" in out
    _, out, _ = asked(capsys, "predict", "--server", tiny_server, *argv, "--json")
    assert 1 <= json.loads(out)["tokens"] <= 5


@pytest.mark.parametrize("how", [(), ("--unary",)])
def test_repeat_sums_up_a_small_load(
    tiny_server: str, how: tuple[str, ...], capsys: Captured
) -> None:
    argv = ("--text", "hum", "--repeat", "40", "--concurrency", "8", *how)
    code, out, err = asked(capsys, "predict", "--server", tiny_server, *argv, "--json")
    found = json.loads(out)
    assert (code, found["answered"], found["errors"]) == (0, 40, {})
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    assert "40" in err  # the progress bar
    _, out, _ = asked(capsys, "predict", "--server", tiny_server, *argv)
    assert "40 answered" in out and "p99" in out


def test_a_large_file_goes_by_upload(tiny_server: str, tmp_path: Path, capsys: Captured) -> None:
    from PIL import Image

    path = tmp_path / "large.bmp"
    path.write_bytes(made.image("BMP", Image.new("RGB", (1300, 1300), "red")))
    assert path.stat().st_size > 4 * MIB
    argv = ("--image", str(path), "--json")
    code, out, err = asked(capsys, "predict", "--server", tiny_server, *argv)
    assert code == 0, err
    assert json.loads(out)["timings_ms"]["decode"] > 0


def test_refused_input_is_exit_3_and_names_the_part(
    tiny_server: str, tmp_path: Path, capsys: Captured
) -> None:
    empty = tmp_path / "empty.jpg"
    empty.write_bytes(b"")
    argv = ("--text", "hum", "--image", str(empty))
    code, out, err = asked(capsys, "predict", "--server", tiny_server, *argv)
    assert (code, out) == (3, "")
    assert "examples[0].parts[1].data: empty.jpg: the part has 0 bytes" in err and "EMPTY" in err
    code, _, err = asked(capsys, "predict", "--server", tiny_server, *argv, "--repeat", "3")
    assert code == 3 and "EMPTY" in err
    code, _, err = asked(capsys, "predict", "--server", tiny_server, *argv, "--generate")
    assert code == 3 and "example.parts[1].data" in err


def test_another_stamp_is_exit_5_with_the_serving_one(tiny_server: str, capsys: Captured) -> None:
    argv = ("--text", "hum", "--expected-stamp", "ab" * 32)
    code, _, err = asked(capsys, "predict", "--server", tiny_server, *argv)
    assert code == 5 and "serves stamp" in err
    _, out, _ = asked(capsys, "predict", "--server", tiny_server, "--text", "hum", "--json")
    pinned = ("--text", "hum", "--expected-stamp", json.loads(out)["stamp"])
    assert asked(capsys, "predict", "--server", tiny_server, *pinned)[0] == 0


@pytest.mark.parametrize("how", [(), ("--generate",), ("--repeat", "4", "--concurrency", "2")])
def test_a_set_of_stamps_is_answered_when_the_serving_one_is_in_it(
    how: tuple[str, ...], tiny_server: str, capsys: Captured
) -> None:
    _, out, _ = asked(capsys, "predict", "--server", tiny_server, "--text", "hum", "--json")
    serving = json.loads(out)["stamp"]
    argv = ("--server", tiny_server, "--text", "hum", *how, "--expected-stamp", "ab" * 32)
    assert asked(capsys, "predict", *argv, "--expected-stamp", serving)[0] == 0
    code, _, err = asked(capsys, "predict", *argv, "--expected-stamp", "cd" * 32)
    assert code == 5 and serving in err


def test_an_expired_deadline_is_exit_4(tiny_server: str, capsys: Captured) -> None:
    argv = ("--text", "hum", "--deadline-ms", "0.01")
    assert asked(capsys, "predict", "--server", tiny_server, *argv)[0] == 4


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_server_is_exit_4_and_a_probe_says_so_with_1(capsys: Captured) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    code, _, err = asked(capsys, "predict", "--server", nowhere, "--text", "hum")
    assert code == 4 and f"no server at {nowhere}: Connection refused; start one" in err
    assert asked(capsys, "status", "--server", nowhere)[0] == 4
    assert asked(capsys, "drain", "--server", nowhere)[0] == 4
    code, out, err = asked(capsys, "probe", "--server", nowhere)
    assert (code, out) == (1, "unreachable\n") and f"no server at {nowhere}" in err


def test_probe_of_a_ready_server_says_one_word(tiny_server: str, capsys: Captured) -> None:
    assert asked(capsys, "probe", "--server", tiny_server) == (0, "ready\n", "")


def test_a_picture_is_read_from_standard_input(tiny_server: str, tmp_path: Path) -> None:
    from PIL import Image

    command = [sys.executable, "-m", "server.main", "predict", "--server", tiny_server, "--json"]
    picture = made.image("PNG", Image.new("RGB", (64, 64), "red"))
    arguments = ("--text", "hum", "--image", "-")
    done = subprocess.run([*command, *arguments], cwd=ROOT, input=picture, capture_output=True)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "red.png"
    file.write_bytes(picture)
    arguments = ("--text", "-", "--image", str(file))
    same = subprocess.run([*command, *arguments], cwd=ROOT, input=b"hum", capture_output=True)
    assert json.loads(done.stdout)["scores"] == pytest.approx(
        json.loads(same.stdout)["scores"], rel=1e-3
    )
    empty = subprocess.run(
        [*command, "--image", "-"], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert empty.returncode == 3 and b": standard input: the part has 0" in empty.stderr


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("predict", "--imagee", "a.jpg"), "there is no flag --imagee; did you mean --image?"),
        (("predict", "photo.JPG"), "did you mean --image photo.JPG?"),
        (("predict", "--text", "a", "b.wav"), "did you mean --audio b.wav?"),
        (("predict", "knocking since noon"), "did you mean --text 'knocking since noon'?"),
        (("predict", "--image", "-", "--audio", "-"), "for one part only"),
        (("status", "--jsn"), "did you mean --json?"),
        (("--warmpool", "2"), "there is no flag --warmpool; did you mean --warm-pool?"),
    ],
)
def test_what_was_meant_is_named(argv: tuple[str, ...], complaint: str, capsys: Captured) -> None:
    code, _, err = asked(capsys, *argv)
    assert code == 2 and complaint in err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--text", "ab\udcff"), "--text: byte 2 is not valid UTF-8"),
        (("--text", "a", "--label", "\udcff"), "--label: byte 0 is not valid UTF-8"),
        (("--text", "a", "--slice", "site=\udcff"), "--slice: byte 5 is not valid UTF-8"),
        (("--text", "a", "--session", "\udcff"), "--session: byte 0 is not valid UTF-8"),
        (("photo.jpg",), "did you mean --image photo.jpg?"),
        (("--image", "missing.jpg"), "--image missing.jpg: No such file or directory"),
    ],
)
def test_wrong_usage_is_one_line(argv: tuple[str, ...], complaint: str, capsys: Captured) -> None:
    code, out, err = asked(capsys, "predict", *argv)
    assert (code, out) == (2, "") and complaint in err
    assert err.count("\n") == 1 and err.startswith("server predict: ")


def test_a_refused_file_is_named_once(tiny_server: str, tmp_path: Path, capsys: Captured) -> None:
    """A text is not a file, however long, nor when a file has its name."""
    file = tmp_path / "station.pdf"
    file.write_bytes(b"%PDF-1.7\n" + bytes(300))
    code, _, err = asked(capsys, "predict", "--server", tiny_server, "--image", str(file))
    assert code == 3 and err.count("\n") == 1 and err.count("station.pdf") == 1
    assert "station.pdf: the content is a PDF" in err
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))
    odd.write_bytes(b"%PDF-1.7\n" + bytes(300))
    code, _, err = asked(capsys, "predict", "--server", tiny_server, "--image", str(odd))
    assert code == 3 and "\ufffd.jpg: the content is a PDF" in err
    for text in ("pump " * 600, str(file)):
        argv = ("--text", text, "--on-truncation", "refuse", "--expected-stamp", "ab" * 32)
        code, _, err = asked(capsys, "predict", "--server", tiny_server, *argv)
        assert code in (3, 5) and err.count("\n") == 1 and "station.pdf" not in err


def test_status_shows_the_evidence_of_every_modality_mix(
    tiny_server: str, capsys: Captured
) -> None:
    code, out, _ = asked(capsys, "status", "--server", tiny_server, "--json")
    found = json.loads(out)
    assert (code, found["server"], found["state"]) == (0, "tiny", "READY")
    (replica,) = found["replicas"]
    assert len(replica["evidence"]) == 7 and all(one["ok"] for one in replica["evidence"])
    assert found["flags"]["warm-pool"] == "1" and isinstance(found["requests"], int)
    assert found["stamp_parts"]["weights"] and found["env"]["torch"]
    _, out, _ = asked(capsys, "status", "--full", "--server", tiny_server)
    assert "tiny  READY" in out and "audio+image+text" in out and "chosen automatically" in out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("predict",), "at least one of --text"),
        (("predict", "--image", "/no/such/file"), "/no/such/file"),
        (("predict", "--text", "a", "--slice", "site"), "NAME=VALUE"),
        (("predict", "--text", "a", "--expected-stamp", "7f3a"), "64 hex digits"),
        (("predict", "--text", "a", "--generate", "--embed"), "--generate goes without"),
        (("predict", "--text", "a", "--repeat", "0"), "at least 1"),
        (("forecast",), "no command 'forecast'"),
        (("--warm-pool", "0"), "--warm-pool: '0': expected a whole number of at least 1"),
        (("--max-message-mb", "much"), "--max-message-mb: 'much': expected MiB"),
        (("--listen", "0.0.0.0:0"), "--insecure accepts that"),
        (("--listen", "nonsense"), "HOST:PORT"),
        (("--tls-cert", "cert.pem"), "both --tls-cert and --tls-key"),
    ],
)
def test_wrong_usage_is_exit_2_and_names_what_is_wrong(
    argv: tuple[str, ...], complaint: str, tiny_bundle: Path, capsys: Captured
) -> None:
    serving = () if argv[0] in (*COMMANDS, "forecast") else ("--bundle", str(tiny_bundle))
    code, _, err = asked(capsys, *argv, *serving)
    assert code == 2 and complaint in err


def test_a_taken_port_is_reported_plainly(
    tiny_server: str, tiny_bundle: Path, capsys: Captured
) -> None:
    code, _, err = asked(capsys, "--bundle", str(tiny_bundle), "--listen", tiny_server)
    assert code == 2 and f"cannot listen on {tiny_server}: Address already in use" in err


def test_a_port_that_another_server_has_at_one_address_of_the_name_is_taken(
    tiny_server: str, tiny_bundle: Path, capsys: Captured
) -> None:
    """gRPC would be content with the other, and who calls 127.0.0.1 would get the other server."""
    named = f"localhost:{tiny_server.rpartition(':')[2]}"
    code, _, err = asked(capsys, "--bundle", str(tiny_bundle), "--listen", named)
    assert code == 2 and f"cannot listen on {named}: Address already in use" in err


def test_what_is_no_bundle_is_exit_78(tmp_path: Path, capsys: Captured) -> None:
    code, out, _ = asked(capsys, "--bundle", str(tmp_path), "--listen", "127.0.0.1:0")
    assert code == 78 and "no manifest.json" in out


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_of_each_command_is_shown(command: tuple[str, ...], capsys: Captured) -> None:
    code, out, _ = asked(capsys, *command, "--help")
    assert code == 0 and out.startswith(" ".join(("usage: server", *command)))


def test_every_setting_has_a_flag_and_the_flags_defaults_are_the_settings() -> None:
    command = parser()
    assert config_of(command.parse_args([])) == ServerConfig()
    shown = flags_of(ServerConfig())
    assert shown["max-message-mb"] == "16" and shown["queue-limit"] == "256"
    assert len(shown) == len(ServerConfig.__slots__)


# A flag is made of the name of its field, and must not change when that does.
FLAGS = {
    "what to serve, where": (
        "bundle allow-dirty require-signature expect-stamp expect-from verify data listen http "
        "insecure name environment"
    ),
    "the warm pool": (
        "warm-pool device dtype threads decode-threads no-fork-server no-cuda-graphs "
        "no-share-weights no-memory-check load-memory-mb load-timeout stall "
        "restart-first restart-longest stable quarantine"
    ),
    "batches and the queue": (
        "max-batch-rows max-batch-cost max-generations queue-limit queue-mb ahead-mb patience "
        "default-deadline grace lame-duck connection-age standby keep-bundles"
    ),
    "readiness": (
        "slo-ms probe-interval probe-runs slow-after fast-again queue-nearly-full skew-interval"
    ),
    "limits of a request": (
        "max-message-mb max-examples max-parts max-text-kb max-labels max-label-chars "
        "max-slices max-new-tokens max-expected-stamps accept-gzip max-connections "
        "max-connections-peer arriving-mb arriving-peer-mb max-streams max-calls max-calls-peer "
        "max-watchers max-watchers-peer max-http-connections max-http-connections-peer "
        "upload-mb upload-peer-mb upload-peer-count "
        "upload-total-mb upload-ttl"
    ),
    "encryption and roles": ("tls-cert tls-key tls-client-ca tokens"),
    "telemetry": (
        "no-telemetry sample-share payload-key keep-days max-telemetry-mb baseline tick on-alert "
        "runbooks prometheus trace-share simulated-time"
    ),
    "the log": "log-format log-level",
}


def test_the_flags_are_those_that_were_promised(capsys: Captured) -> None:
    _, out, _ = asked(capsys, "--help")
    found = re.split(r"^(\w[^:\n]*):$", out, flags=re.M)
    shown = dict(zip(found[1::2], found[2::2], strict=True))
    for title, names in FLAGS.items():
        assert re.findall(r"^  --([\w-]+)", shown[title], re.M) == names.split(), title
    assert sum(len(names.split()) for names in FLAGS.values()) == len(ServerConfig.__slots__)


def test_units_of_flags_are_those_of_their_names() -> None:
    argv = ["--max-message-mb", "2.5", "--max-text-kb", "8", "--grace", "1.5", "--insecure"]
    config = config_of(parser().parse_args(argv))
    assert config.max_message_bytes == int(2.5 * MIB)
    assert (config.max_text_bytes, config.drain_s, config.insecure) == (8192, 1.5, True)


def test_the_front_and_the_commands_never_import_torch() -> None:
    check = (
        "import sys, server.commands.serve, server.commands.predict, server.commands.status;"
        "assert not {'torch', 'transformers', 'pipelines'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


@pytest.mark.parametrize("program_of", ["server", "pipelines"])
def test_a_reader_who_has_seen_enough_is_no_error(
    program_of: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    """As `| head` is: what is left is written at the exit, into a pipe that nobody reads."""
    (tmp_path / "bundles").mkdir()
    argv: dict[str, list[str | Path]]
    argv = {"server": ["bundles", "--data", tmp_path], "pipelines": ["inspect", tiny_bundle]}
    reading, writing = os.pipe()
    os.close(reading)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", f"{program_of}.main", *argv[program_of]],
        cwd=ROOT,
        env=buffered,
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_changed_bundle_is_refused_with_78_and_the_reason(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(tiny_bundle, copy)
    card = copy / "CARD.md"
    card.chmod(0o644)
    card.write_text(card.read_text() + "changed")
    command = [
        sys.executable,
        "-m",
        "server.main",
        "--listen",
        "127.0.0.1:0",
        "--bundle",
        str(copy),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 78
    assert "refused: " in ended.stdout and "CARD.md" in ended.stdout


def test_drain_ends_the_server(tiny_bundle: Path, capsys: Captured) -> None:
    with program("--bundle", str(tiny_bundle)) as server:
        code, out, _ = asked(capsys, "drain", "--server", server.address)
        assert code == 0 and "drained" in out
        assert server.process.wait(patience(60)) == 0
    assert any(" server: ready on " in line for line in server.lines)
