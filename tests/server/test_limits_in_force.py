"""One table of limits: the server's flags and the serving bundle's, the smaller one in force."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import grpc
import pytest

from proto import admin_pb2, admin_pb2_grpc, observe_pb2, observe_pb2_grpc
from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from server.api.listener import METADATA_BYTES
from server.commands.flags import flags
from server.config import ServerConfig
from server.request.limits import in_force, most, server_limits
from server.telemetry.otel.metric_definitions import COUNTERS, GAUGES
from tests.support.ruled_engine import ruled, served
from tests.support.ruled_replica import facts
from tests.support.running import ROOT, channel_to, idle_engine, listener

OPTION = re.compile(r'\("(grpc\.[a-z0-9_.]+)", ')  # of a channel or a server
OURS = ("max_parts", 64.0, "parts")
SMALLER = "max_parts=2,max_text_bytes=8"
BUNDLE = facts(limits=SMALLER)
LARGE = facts(limits="max_parts=1000,max_audio_s=30")


def test_the_smaller_limit_is_shown_once_and_keeps_its_unit() -> None:
    assert in_force((OURS,), None) == (OURS,)
    assert in_force((OURS,), BUNDLE)[0] == ("max_parts", 2.0, "parts")
    assert in_force((OURS,), LARGE) == (OURS, ("max_audio_s", 30.0, ""))
    for bundle in (None, BUNDLE, LARGE):
        names = [name for name, _, _ in in_force(server_limits(ServerConfig()), bundle)]
        assert len(names) == len(set(names))


def test_the_front_checks_the_limit_it_shows() -> None:
    config = ServerConfig()
    for bundle in (None, BUNDLE, LARGE):
        shown = {name: value for name, value, _ in in_force(server_limits(config), bundle)}
        for name in ("max_parts", "max_text_bytes"):
            assert most(config, bundle, name) == shown[name]


@pytest.mark.parametrize(
    ("texts", "field", "reason"),
    [
        (["a", "b", "c"], "examples[0].parts", "TOO_MANY_PARTS"),
        (["a", "123456789"], "examples[0].parts[1].text", "TEXT_TOO_LONG"),
    ],
)
async def test_what_the_bundle_would_refuse_is_not_queued(
    texts: list[str], field: str, reason: str
) -> None:
    row = pb.Example(parts=[pb.Part(text=text) for text in texts])
    async with (
        ruled(limits=SMALLER) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        request = pb.PredictRequest(examples=[row, pb.Example(parts=[pb.Part(text="a")])])
        bad, good = (await stubs.InferenceStub(channel).Predict(request)).results
    assert (bad.fault.field, bad.fault.reason) == (field, reason)
    assert good.HasField("prediction") and len(engine.received) == 1


async def test_describe_and_status_show_each_limit_once() -> None:
    async with (
        ruled(limits=SMALLER) as engine,
        listener(engine) as address,
        channel_to(address) as channel,
    ):
        described = await stubs.InferenceStub(channel).Describe(pb.DescribeRequest())
        call = observe_pb2_grpc.ObserveStub(channel).Watch(observe_pb2.WatchRequest(once=True))
        (event,) = [event async for event in call]
    for limits in (described.limits, event.snapshot.limits):
        values = [limit.value for limit in limits if limit.name == "max_parts"]
        assert values == [2.0]


RESOURCES = (ROOT / "docs" / "security.md").read_text()
FLAGS = {name: field for name, field, _, _ in flags()}
SCALES = {"mib": 1 << 20, "kib": 1 << 10}


def test_the_table_of_resources_names_flags_metrics_and_reasons_that_exist() -> None:
    files = (file for top in ("server", "pipelines") for file in (ROOT / top).rglob("*.py"))
    sources = "\n".join(file.read_text() for file in files)
    elsewhere = {"--cache-limit-mb", "--full"}  # of the console, and of `server status`
    assert set(re.findall(r"--[a-z-]{3,}", RESOURCES)) - elsewhere <= FLAGS.keys()
    assert set(re.findall(r"`(trefoil\.[a-z._]+)`", RESOURCES)) <= GAUGES.keys() | COUNTERS.keys()
    reasons = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", RESOURCES)) - {"RESOURCE_EXHAUSTED"}
    # Of a picture and of a sound: one line of pipelines/media/work.py.
    made = {f"{kind}_TOO_COMPLEX" for kind in ("IMAGE", "AUDIO")} & reasons
    assert '_TOO_COMPLEX"' in sources or not made
    assert reasons and all(f'"{reason}"' in sources for reason in reasons - made)


def test_the_table_of_resources_has_the_defaults_of_the_flags() -> None:
    checked = set()
    scale = {
        name: SCALES.get(getattr(flag.read, "__name__", ""), 1) for name, _, _, flag in flags()
    }
    for line in RESOURCES.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) != 8 or not cells[3].startswith("`--") or not cells[4]:
            continue
        named = re.findall(r"--[a-z-]+", cells[3])
        shown = [float(number) for number in cells[4].split(", ")]
        if "streams, in all" in cells[1]:
            continue  # shares of what the line before has
        default = [getattr(ServerConfig(), FLAGS[flag]) / scale[flag] for flag in named]
        assert shown == default, line
        checked |= set(named)
    assert len(checked) >= 20


async def test_text_of_an_admin_is_limited() -> None:
    async with listener(idle_engine()) as address, channel_to(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            long = admin_pb2.RollbackRequest(reason="x" * 5000)
            await admin_pb2_grpc.AdminStub(channel).Rollback(long)
    assert str(caught.value.details()).startswith("reason: 5000 characters; the limit is 4096")


async def test_metadata_beyond_the_limit_is_refused_every_time() -> None:
    """Between a soft and a hard limit gRPC would refuse some calls and not others."""
    async with served() as (_, channel):
        describe = stubs.InferenceStub(channel).Describe
        await describe(pb.DescribeRequest(), metadata=(("filler", "x" * (METADATA_BYTES - 1024)),))
        for size in (METADATA_BYTES, METADATA_BYTES + 512, 15 << 10):
            for _ in range(10):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await describe(pb.DescribeRequest(), metadata=(("filler", "x" * size),))
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_knows_every_option_that_it_is_given() -> None:
    """It ignores what it does not know: a misspelt floor of pings was its own, five minutes."""
    folders = ("server", "console", "clients/python", "examples", "benchmarks")
    sources = [file.read_text() for name in folders for file in (ROOT / name).rglob("*.py")]
    options = {option for source in sources for option in OPTION.findall(source)}
    (library,) = (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as names:
        unknown = {option for option in options if names.find(f"{option}\0".encode()) < 0}
    assert "grpc.max_metadata_size" in options and not unknown
