"""Checks the texts in installers/gpu-host. `make verify-installers` builds and starts what they
describe."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installers import files
from tests.installers.tools import GPU_HOST, Failed, Skipped
from tests.installers.verify import main


@pytest.mark.parametrize("check", files.CHECKS, ids=lambda check: check.__name__)
def test_installer_file(check: Callable[[Path], str]) -> None:
    assert unless_skipped(check, GPU_HOST)


def unless_skipped(check: Callable[[Path], str], folder: Path) -> str:
    try:
        return check(folder)
    except Skipped as reason:
        pytest.skip(str(reason))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The folder as it might have been spoilt."""
    return shutil.copytree(GPU_HOST, tmp_path / "gpu-host")


@pytest.mark.parametrize(
    ("check", "file", "right", "wrong"),
    [
        (files.unit_is_understood, "trefoil-server.service", "WatchdogSec", "WatchDogSec"),
        (files.unit_is_understood, "trefoil-server.service", "Type=notify", "Type=tell"),
        (files.unit_is_hardened, "trefoil-server.service", "SystemCallFilter=", "#"),
        (files.accounts_and_directories_are_made, "trefoil.tmpfiles", "0750", "0755"),
        (files.flags_are_known, "server.env", "--warm-pool", "--warm-pools"),
        (files.flags_are_known, "compose.yaml", "--tls-client-ca", "--client-ca"),
        (files.flags_are_known, "trefoil-server.service", "--data", "--date"),
        (files.grace_is_waited_for, "compose.yaml", "grace_period: 60s", "grace_period: 10s"),
        (files.compose_is_valid, "compose.yaml", "read_only: true", "read_only: false"),
        (files.compose_is_valid, "compose.yaml", "pids_limit:", "pid_limit:"),
        (files.containerfile_is_clean, "Containerfile", "WORKDIR /", "WORKDIR here"),
        (files.libraries_are_locked, "requirements.txt", "torch==2", "torch==1"),
        (files.libraries_are_locked, "requirements.txt", "grpcio==", "grpcio-not=="),
    ],
)
def test_a_spoilt_file_is_noticed(
    check: Callable[[Path], str], file: str, right: str, wrong: str, copy: Path
) -> None:
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    with pytest.raises(Failed):
        unless_skipped(check, copy)


def test_a_failure_is_an_exit_code_and_a_skip_has_its_reason(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")  # no tool at all
    assert main(["--quick"], copy) == 0
    assert "not installed: hadolint" in capsys.readouterr().out
    (copy / "requirements.txt").write_text("")
    assert main(["--quick"], copy) == 1
    assert "FAILED" in capsys.readouterr().out
