"""Every command of docs/http.md runs as shown, against the whole server."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_site import needs_curl
from tests.support.patience import patience
from tests.support.running import ROOT, program

PAGE = (ROOT / "docs" / "http.md").read_text()
SHOWN = "127.0.0.1:8080"
HTTP = re.compile(r"HTTP on (\S+)")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


CURLS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if "server" in line]
    flags = [word.replace(SHOWN, "127.0.0.1:0") for word in shlex.split(command)[1:]]
    with program(*flags) as running:
        found = next(one for line in running.lines if (one := HTTP.search(line)))
        yield found[1]
        assert running.stop() == 0


@needs_curl
@pytest.mark.parametrize("command", CURLS)
def test_the_curl_commands_are_answered(command: str, address: str) -> None:
    arguments = shlex.split(command.replace(SHOWN, address))
    arguments[1:1] = ["-sS", "--fail-with-body"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0 and done.stdout, (done.stdout, done.stderr)


@pytest.mark.interop
@pytest.mark.parametrize("library", ["openai", "tritonclient"])
def test_the_python_examples_run(library: str, address: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: pip install {library}")
    if library == "tritonclient" and importlib.util.find_spec("geventhttpclient") is None:
        pytest.skip("geventhttpclient is not installed: pip install 'tritonclient[http]'")
    (code,) = [block for block in blocks("python") if f" {library}" in block]
    done = subprocess.run(
        [sys.executable, "-c", code.replace(SHOWN, address)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_metrics_have_the_series_of_the_server(address: str) -> None:
    def fetch(path: str) -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=patience(30)) as answer:
            return str(answer.read(), "utf-8")

    fetch("/v2/models/trefoil")  # a call, in case this test is the first; it is counted later
    end = time.monotonic() + patience(20)
    while "rpc_server_call_duration" not in (text := fetch("/metrics")) and time.monotonic() < end:
        time.sleep(0.1)
    for name in ("trefoil_rows_total", "trefoil_http_connections", "rpc_server_call_duration"):
        assert re.search(rf"^{name}", text, re.MULTILINE), name


WITHOUT = """
import sys
sys.modules[{library!r}] = None
from server.main import main
sys.exit(main(["--http", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--data", {data!r}]))
"""


@pytest.mark.parametrize("library", ["uvicorn", "httptools", "python_multipart"])
def test_a_missing_library_is_named_with_its_extra(library: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    code = WITHOUT.format(library=library, data=str(data))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    expected = f"server: --http needs {library}: pip install 'trefoil-serve[http]'\n"
    assert (done.returncode, done.stderr) == (2, expected)
    assert not data.exists(), "refused before anything is written"
