"""Runs third-party tools against a real server, and prints the result of each: python -m
tests.interop.run [--only NAME] [--tools DIR]

The server runs with --http on the embedded bundle. A tool that cannot be installed here is skipped,
with its name and the reason. Exit codes: 0 nothing failed, 1 something did.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import struct
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from tests.installers.tools import Failed, Skipped, attempt, need, run
from tests.interop import toolbox
from tests.interop.prometheus import prometheus
from tests.interop.toolbox import Toolbox
from tests.support.running import program

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(__file__).with_name("clients")
CLIENT = ROOT / "clients" / "python" / "pyproject.toml"
SAMPLES = ROOT / "pipelines" / "triage" / "samples"
PICTURE, SOUND = SAMPLES / "station.jpg", SAMPLES / "machine.wav"
HTTP = re.compile(r"HTTP on (\S+)")
THROUGHPUT = re.compile(r"Throughput: [\d.]+ infer/sec")
SPLIT = re.compile(r"Avg request latency: .*")
BRIEF = ("-p", "1000", "-s", "999", "-r", "4", "--concurrency-range", "2")


@dataclass(frozen=True, slots=True)
class Site:
    """`grpc` and `http` are HOST:PORT of one server."""

    grpc: str
    http: str
    tools: Toolbox

    @property
    def url(self) -> str:
        return f"http://{self.http}"


@dataclass(frozen=True, slots=True)
class Check:
    """`what` the tool is asked to do; `install` gets it before the server starts, as installing
    would slow that; `run` returns the evidence."""

    tool: str
    what: str
    run: Callable[[Site], str]
    install: Callable[[Toolbox], object] = lambda tools: None


@dataclass(frozen=True, slots=True)
class Result:
    check: Check
    end: str  # passed | failed | skipped
    evidence: str


def curl(site: Site, *arguments: str | Path) -> str:
    need("curl")
    *flags, path = map(str, arguments)
    return run(["curl", "-sS", "--fail-with-body", *flags, site.url + path])


def curl_form(site: Site) -> str:
    parts = ("-F", "text=knocking", "-F", f"image=@{PICTURE}", "-F", f"audio=@{SOUND}")
    found = json.loads(curl(site, *parts, "/v1/predict"))
    return f"{found['label']!r} of {len(found['parts_used'])} parts"


def curl_probes(site: Site) -> str:
    """Ready, or why not: a server on a busy machine is too slow for its own limit."""
    need("curl")
    for path in ("/livez", "/startupz", "/v2/health/live"):
        curl(site, path)
    done = attempt(["curl", "-sS", "-w", " %{http_code}", f"{site.url}/readyz"])
    word, _, status = done.stdout.rpartition("\n")
    if int(status) not in (200, 503):
        raise Failed(done.stdout)
    return f"4 probes: {word[:100]}"


def beside_kserve(_: Site) -> str:
    """Nothing is installed: pip resolves what the client and kserve need together."""
    needed = tomllib.loads(CLIENT.read_text())["project"]["dependencies"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = attempt([*command, "kserve", *needed])
    if "No matching distribution found for kserve" in done.stderr:
        raise Skipped("kserve was not resolved: no registry is reached")
    if done.returncode != 0:
        raise Failed(done.stderr)
    return f"resolved with {', '.join(needed)}"


def curl_stream(site: Site) -> str:
    body = {"model": "trefoil", "stream": True, "messages": [{"role": "user", "content": "hum"}]}
    events = curl(site, "-N", "-d", json.dumps(body), "/v1/chat/completions").split("\n\n")
    if "data: [DONE]" not in events:
        raise Failed(f"the stream has no end: {events[-2:]}")
    return f"{len(events) - 1} events, the last one [DONE]"


def curl_tensors(site: Site) -> str:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": ["knocking"]}
    answer = curl(site, "-d", json.dumps({"inputs": [tensor]}), "/v2/models/trefoil/infer")
    outputs = {one["name"]: one["data"] for one in json.loads(answer)["outputs"]}
    return f"label {outputs['label'][0]!r}, {len(outputs['scores'])} scores"


def promtool(site: Site) -> str:
    need("promtool", "curl")
    text = curl(site, "-H", "accept: text/plain", "/metrics")
    shell = f"curl -sS {site.url}/metrics | promtool check metrics"
    done = attempt(["bash", "-c", shell])
    # 3: it would name some things otherwise; 1 is a format that cannot be read.
    if done.returncode not in (0, 3):
        raise Failed(done.stderr)
    return f"{sum(not line.startswith('#') for line in text.splitlines())} series are read"


def grafana(site: Site) -> str:
    """The dashboard is an object of the type that Grafana's own code reads."""
    compiler = grafana_installed(site.tools)
    folder = compiler.parents[2]
    content = (ROOT / "docs" / "observability" / "dashboard.json").read_text()
    source = folder / "dashboard.ts"
    head = "import { Dashboard } from '@grafana/schema';\nexport const shipped: Dashboard = "
    source.write_text(f"{head}{content.strip()};\n")
    run([compiler, "--noEmit", "--strict", "--skipLibCheck", source])
    source.write_text(f"{head}{content.strip().replace('schemaVersion', 'schemaVersions')};\n")
    if attempt([compiler, "--noEmit", "--strict", "--skipLibCheck", source]).returncode == 0:
        raise Failed("a dashboard without its version is accepted too: nothing was checked")
    return f"{len(json.loads(content)['panels'])} panels have the type Dashboard"


def grafana_installed(tools: Toolbox) -> Path:
    return tools.from_npm("tsc", *toolbox.GRAFANA)


def mlserver(site: Site) -> str:
    """Its batch client: each line of a file is a request, two of them a batch of two rows."""
    found = mlserver_installed(site.tools)
    asked, answered = (site.tools.folder / f"mlserver-{end}.jsonl" for end in ("in", "out"))
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1, 1]}
    requests = [{"inputs": [{**tensor, "data": [text]}]} for text in ("knocking", "hum", "smoke")]
    asked.write_text("\n".join(map(json.dumps, requests)))
    files = ("-i", asked, "-o", answered)
    run([found, "infer", "-u", site.http, "-m", "trefoil", "--batch-size", "2", *files])
    answers = [json.loads(line) for line in answered.read_text().splitlines()]
    outputs = [{one["name"]: one["data"] for one in answer["outputs"]} for answer in answers]
    labels = [output["label"][0] for output in outputs if len(output["label"]) == 1]
    if len(labels) != len(requests):
        raise Failed(f"{answers}")
    return f"{len(labels)} lines in batches of 2: {', '.join(map(repr, labels))}"


def mlserver_installed(tools: Toolbox) -> Path:
    return tools.python_with("mlserver", toolbox.MLSERVER).with_name("mlserver")


def script(name: str, packages: Sequence[str], arguments: Callable[[Site], list[str]]) -> Check:
    """A client in an environment of its own."""

    tool = packages[0].partition("=")[0].partition("[")[0]

    def install(tools: Toolbox) -> Path:
        return tools.python_with(tool, *packages)

    def check(site: Site) -> str:
        python = install(site.tools)
        return run([python, CLIENTS / f"{name}.py", *arguments(site), PICTURE, SOUND]).strip()

    return Check(tool, name.replace("_", " "), check, install)


def loaded_row() -> dict[str, object]:
    """As docs/serving.md has it: base64 is sent as it is, so it holds the length of the element."""
    photo = PICTURE.read_bytes()
    packed = base64.b64encode(struct.pack("<I", len(photo)) + photo).decode()
    image = {"content": {"b64": packed}, "shape": [1]}
    return {"text": {"content": ["hum"], "shape": [1]}, "image": image}


def perf_analyzer(how: Sequence[str], over_http: bool, site: Site) -> str:
    found, environment = site.tools.perf_analyzer()
    inputs = site.tools.folder / "inputs.json"
    inputs.write_text(json.dumps({"data": [loaded_row()]}))
    target = ("-i", "http", "-u", site.http) if over_http else ("-i", "grpc", "-u", site.grpc)
    command = [found, "-m", "triage", *target, "--input-data", inputs, *BRIEF, *how]
    out = run([*map(str, command)], env=environment)
    rates, splits = THROUGHPUT.findall(out), SPLIT.findall(out)
    if not rates or not splits:
        raise Failed(out)
    return f"{rates[-1].lower()}; {splits[-1][:110]}"


def grpcurl_installed(tools: Toolbox) -> Path:
    return tools.from_go("grpcurl", toolbox.GRPCURL)


def health_probe_installed(tools: Toolbox) -> Path:
    return tools.from_go("grpc-health-probe", toolbox.HEALTH_PROBE)


def grpcurl(site: Site) -> str:
    found = grpcurl_installed(site.tools)
    ask = [str(found), "-plaintext"]
    services = run([*ask, site.grpc, "list"]).split()
    for service in services:
        run([*ask, site.grpc, "describe", service])
    example = {"parts": [{"text": "knocking"}]}
    request = json.dumps({"examples": [example]})
    method = "trefoil.v1.Inference/Predict"
    label = json.loads(run([*ask, "-d", request, site.grpc, method]))["results"][0]
    refused = attempt([*ask, "-d", '{"examples":[{}]}', site.grpc, method])
    if not re.search(r"google\.rpc\.BadRequest.*field_?violations", refused.stderr, re.I | re.S):
        raise Failed(f"the details of a refusal are not readable: {refused.stderr}")
    return (
        f"{len(services)} services listed and described; {label['prediction']['label']!r}; "
        "the details of a refusal are readable"
    )


def buf_installed(tools: Toolbox) -> Path:
    return tools.from_npm("buf", toolbox.BUF)


def buf(site: Site) -> str:
    ask = [str(buf_installed(site.tools)), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    services = run([*ask, "--list-services", f"http://{site.grpc}"]).split()
    methods = run([*ask, "--list-methods", f"http://{site.grpc}"]).split()
    request = json.dumps({"examples": [{"parts": [{"text": "knocking"}]}]})
    method = f"http://{site.grpc}/trefoil.v1.Inference/Predict"
    (result,) = json.loads(run([*ask, "-d", request, method]))["results"]
    refused = attempt([*ask, "-d", '{"examples":[{}]}', method])
    if "google.rpc.BadRequest" not in refused.stderr:
        raise Failed(f"the details of a refusal are missing: {refused.stderr}")
    label = result["prediction"]["label"]
    return f"{len(services)} services, {len(methods)} methods; {label!r}; a refusal has BadRequest"


def grpc_health_probe(site: Site) -> str:
    found = health_probe_installed(site.tools)
    for service in ("trefoil.live", "trefoil.ready", "trefoil.startup"):
        run([found, f"-addr={site.grpc}", f"-service={service}"])
    return "3 services SERVING"


def pings(site: Site) -> str:
    """What a client behind NAT does to keep its place there: no call, and a ping every 10 s."""
    options = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    seen: list[grpc.ChannelConnectivity] = []
    with grpc.insecure_channel(site.grpc, options) as channel:
        grpc.channel_ready_future(channel).result(60)
        channel.subscribe(seen.append)
        time.sleep(75.0)
        channel.unsubscribe(seen.append)
    if {*seen} != {grpc.ChannelConnectivity.READY}:
        raise Failed(f"the connection went through {[state.name for state in seen]}")
    return "one connection for 75 s"


CHECKS = (
    Check("grpcio", "pings every 10 s without a call", pings),
    Check("curl", "httpGet probes", curl_probes),
    Check("curl", "a form with text, image, audio", curl_form),
    Check("curl", "tensors in JSON", curl_tensors),
    Check("curl", "a chat as server-sent events", curl_stream),
    Check("promtool", "check metrics of /metrics", promtool),
    Check("prometheus", "scrape, alerts", lambda site: prometheus(site.http)),
    Check("prometheus", "scrape of native histograms", lambda site: prometheus(site.http, True)),
    Check("@grafana/schema", "type-check of the dashboard", grafana, grafana_installed),
    script("triton_grpc", (toolbox.LATER,), lambda site: [site.grpc]),
    script("triton_grpc_aio", (toolbox.LATER,), lambda site: [site.grpc]),
    script("triton_http", (toolbox.LATER,), lambda site: [site.http]),
    script("kserve_client", ("kserve",), lambda site: [site.grpc, site.url]),
    Check("pip", "the client resolves beside kserve", beside_kserve),
    Check("mlserver", "infer, in batches", mlserver, mlserver_installed),
    script("openai_client", ("openai",), lambda site: [site.url]),
    *(
        Check("perf_analyzer", how, partial(perf_analyzer, flags, http), Toolbox.perf_analyzer)
        for how, flags, http in (
            ("-i grpc", (), False),
            ("-i grpc --streaming", ("--streaming", "-a"), False),
            ("-i http", (), True),
        )
    ),
    Check("buf curl", "reflection v1, call, error details", buf, buf_installed),
    Check("grpcurl", "list, describe, call, error details", grpcurl, grpcurl_installed),
    Check("grpc-health-probe", "live, ready, startup", grpc_health_probe, health_probe_installed),
)


def result_of(check: Check, site: Site) -> Result:
    try:
        return Result(check, "passed", check.run(site))
    except Skipped as reason:
        return Result(check, "skipped", str(reason))
    except Failed as error:
        return Result(check, "failed", str(error))


def table(results: Sequence[Result]) -> str:
    lines = ["| tool | what | result |", "|---|---|---|"]
    for one in results:
        evidence = one.evidence.strip().splitlines()[0] if one.evidence.strip() else ""
        result = evidence if one.end == "passed" else f"**{one.end}**: {evidence[:80]}"
        lines.append(f"| {one.check.tool} | {one.check.what} | {result} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="checks of this tool")
    parser.add_argument("--tools", type=Path, default=ROOT / "build" / "interop", metavar="DIR")
    arguments = parser.parse_args(argv)
    arguments.tools.mkdir(parents=True, exist_ok=True)
    checks = [one for one in CHECKS if arguments.only in one.tool]
    for check in checks:
        with suppress(Skipped):  # named when its turn comes
            check.install(Toolbox(arguments.tools.resolve()))
    results = []
    with program("--http", "127.0.0.1:0") as running:
        http = next(found[1] for line in running.lines if (found := HTTP.search(line)))
        site = Site(running.address, http, Toolbox(arguments.tools.resolve()))
        for check in checks:
            result = result_of(check, site)
            print(f"{result.end:8} {check.tool} {check.what}: {result.evidence}", flush=True)
            results.append(result)
    print(table(results))
    return 1 if any(one.end == "failed" for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
