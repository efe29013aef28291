"""haproxy itself accepts the configuration of installers/haproxy without an error or a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CONFIGURATION = Path(__file__).resolve().parents[2] / "installers/haproxy/haproxy.cfg"


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy (Debian: haproxy)")
def test_haproxy_accepts_its_configuration() -> None:
    checked = subprocess.run(
        ["haproxy", "-c", "-f", str(CONFIGURATION)], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "WARNING" not in checked.stderr.upper(), checked.stderr
