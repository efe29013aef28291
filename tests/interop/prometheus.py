"""A real Prometheus scrapes the server, evaluates docs/observability/alerts.yaml and answers
queries."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.installers.tools import ROOT, Failed, need

ALERTS = ROOT / "docs" / "observability" / "alerts.yaml"
COUNT = "rpc_server_call_duration_seconds"
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{alerts}"]
scrape_configs:
  - job_name: trefoil
    static_configs: [{{targets: ["{target}"]}}]
"""
WITHIN_S = 60.0


def prometheus(target: str, native: bool = False) -> str:
    """What it reports about `target`, HOST:PORT of a scrape endpoint whose server has had calls."""
    need("prometheus")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prometheus.yaml"
        file.write_text(CONFIGURATION.format(alerts=ALERTS, target=target))
        command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
        command += [f"--web.listen-address={address}", "--log.level=error"]
        command += ["--enable-feature=native-histograms"] if native else []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                return _asked(address, native)
            finally:
                process.terminate()


def _asked(address: str, native: bool) -> str:
    """Once two scrapes are in: the second has what the first one has counted."""
    expression = f"histogram_count({COUNT})" if native else f"{COUNT}_bucket{{le='+Inf'}}"
    end = time.monotonic() + WITHIN_S
    while not (found := _query(address, expression)) or not _query(address, "ALERTS or vector(0)"):
        if time.monotonic() > end:
            targets = _ask(address, "targets?state=active")
            raise Failed(f"no sample of {expression} after {WITHIN_S:g} s: {targets}")
        time.sleep(0.5)
    calls = sum(float(one["value"][1]) for one in found)
    series = len(_query(address, '{job="trefoil"}'))
    if native:
        quantile = _query(address, f"histogram_quantile(0.5, sum({COUNT}))")[0]["value"][1]
        if _query(address, f"{COUNT}_bucket"):
            raise Failed("the classic buckets were taken although native ones were offered")
        return f"{series} series; {calls:.0f} calls, their median {float(quantile) * 1e3:.1f} ms"
    rules = [rule for group in _ask(address, "rules")["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    if broken:
        raise Failed(f"rules that cannot be evaluated: {broken}")
    firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
    return f"{series} series; {len(rules)} alerts evaluated, firing: {', '.join(firing) or 'none'}"


def _query(address: str, expression: str) -> list[Any]:
    found = _ask(address, f"query?query={urllib.parse.quote(expression)}")
    return list(found["result"]) if found else []


def _ask(address: str, what: str) -> Any:
    """None while it starts."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/{what}", timeout=10) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, ConnectionError):
        return None
