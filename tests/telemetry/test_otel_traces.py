"""Spans: which trace they join, how many are kept, and how they are nested."""

from __future__ import annotations

import importlib
import os
import pkgutil

import pytest
from opentelemetry.semconv._incubating import attributes as conventions

from server.telemetry.otel import metric_definitions
from server.telemetry.otel.configuration import OtelConfiguration, configuration_of
from server.telemetry.otel.items import caller_trace, row_of
from server.telemetry.otel.traces import sampler_of, stages_of
from tests.support.otel_bench import PARENT, PREDICT, instruments, one_call, record, wait_for
from tests.support.otlp_collector import Collector, plain

UNSAMPLED = f"00-{'a' * 32}-{'b' * 16}-00"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-" + "0" * 32 + "-" + "b" * 16 + "-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
        PARENT + "-more",  # version 00 has nothing more
        PARENT.upper(),
        PARENT[:-1],
    ],
)
def test_a_traceparent_that_is_not_valid_is_ignored(header: str) -> None:
    assert caller_trace(header) is None


def test_a_later_version_of_traceparent_is_read_as_far_as_it_is_known() -> None:
    found = caller_trace("01" + PARENT[2:] + "-more")
    assert found is not None and found.sampled and f"{found.parent_id:x}" == "b" * 16


def test_the_share_is_kept_over_ids_as_they_are_made(receiver: Collector) -> None:
    with instruments(OtelConfiguration(otlp=frozenset({"traces"}), trace_share=0.25)) as made:
        begun = [made.began(PREDICT) for _ in range(4000)]
    sampled = sum(bool(one.trace and one.trace.sampled) for one in begun)
    assert 850 < sampled < 1150  # 5 standard deviations


def test_the_environment_may_name_the_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    plan = configuration_of(os.environ)
    sampler, why = sampler_of(plan.trace_share)
    assert "AlwaysOff" in sampler.get_description()
    assert why == "as set by OTEL_TRACES_SAMPLER"


def test_stages_lie_inside_the_row_with_the_wait_before_the_forward() -> None:
    row = row_of(record())
    spans = {stage: (began, ended) for stage, began, ended in stages_of(row)}
    assert list(spans) == ["queue", "decode", "preprocess", "forward", "post"]
    end_ns = int(row.at * 1e9)
    assert spans["queue"][0] == end_ns - 20_000_000
    assert spans["post"][1] == end_ns
    assert spans["forward"][0] - spans["preprocess"][1] == 5_500_000
    for (_, ended), (began, _) in zip(
        list(spans.values())[:-1], list(spans.values())[1:], strict=True
    ):
        assert ended <= began


def test_stages_that_sum_to_more_than_the_whole_stay_inside() -> None:
    row = row_of(record(total_ms=4.0))
    end_ns = int(row.at * 1e9)
    for _, began, ended in stages_of(row):
        assert end_ns - 4_000_000 <= began <= ended <= end_ns


def test_a_sampled_call_becomes_a_trace_and_its_record_names_it(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        begun = made.began(PREDICT)
        kept = made.answered(record(), begun)
        made.ended(begun, "OK", 0.02)
    spans = receiver.spans()
    server = spans[PREDICT]
    assert kept.trace_id == server.trace_id.hex() != ""
    assert server.kind == server.SPAN_KIND_SERVER and server.parent_span_id == b""
    assert plain(server.attributes)["trefoil.prediction.id"] == record().prediction_id
    assert plain(server.attributes)["rpc.status_code"] == "OK"
    stages = [f"trefoil.{stage}" for stage in ("queue", "decode", "preprocess", "forward", "post")]
    assert sorted(spans) == sorted([PREDICT, *stages])
    assert {spans[stage].parent_span_id for stage in stages} == {server.span_id}


def test_the_callers_decision_is_followed(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=0.0)) as made:
        one_call(made, record(prediction_id="1" * 32), parent=PARENT)
        one_call(made, record(prediction_id="2" * 32), parent=UNSAMPLED)
        one_call(made, record(prediction_id="3" * 32))
    (server,) = [span for span in receiver.all_spans() if span.kind == span.SPAN_KIND_SERVER]
    assert plain(server.attributes)["trefoil.prediction.id"] == "1" * 32
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == ("a" * 32, "b" * 16)


def test_several_rows_have_a_span_each_between_call_and_stages(receiver: Collector) -> None:
    rows = [record(prediction_id=f"{index:032x}") for index in range(3)]
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        one_call(made, *rows)
    spans = receiver.all_spans()
    (server,) = [span for span in spans if span.name == PREDICT]
    between = [span for span in spans if span.name == "trefoil.prediction"]
    assert {span.parent_span_id for span in between} == {server.span_id}
    assert {plain(span.attributes)["trefoil.prediction.id"] for span in between} == {
        row.prediction_id for row in rows
    }
    forwards = [span.parent_span_id for span in spans if span.name == "trefoil.forward"]
    assert sorted(forwards) == sorted(span.span_id for span in between)


def test_each_row_of_a_stream_is_a_trace_of_its_own(receiver: Collector) -> None:
    method = "trefoil.v1.Inference/PredictStream"
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        made.listens("10.0.0.1:8433")
        begun = made.began(method, streamed=True)
        begun.peer = "ipv4:10.0.0.7:4711"
        kept = [made.answered(record(prediction_id=f"{n:032x}"), begun) for n in range(3)]
        made.ended(begun, "OK", 5.0)
    rows = [span for span in receiver.all_spans() if span.name == "trefoil.prediction"]
    assert {span.trace_id.hex() for span in rows} == {one.trace_id for one in kept}
    assert len({one.trace_id for one in kept}) == 3
    for about in (plain(span.attributes) for span in rows):
        assert about["rpc.method"] == method and about["rpc.status_code"] == "OK"
        assert (about["network.peer.address"], about["client.port"]) == ("10.0.0.7", 4711)
        assert (about["server.address"], about["server.port"]) == ("10.0.0.1", 8433)
        assert about["network.protocol.version"] == "2"
    (point,) = receiver.points(metric_definitions.CALL_DURATION)
    assert (point.count, point.sum) == (1, 5.0)


def test_a_health_check_is_counted_and_not_traced(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        begun = made.began("grpc.health.v1.Health/Check")
        made.ended(begun, "OK", 0.001)
    assert receiver.all_spans() == []
    (point,) = receiver.points(metric_definitions.CALL_DURATION)
    assert plain(point.attributes)["rpc.method"] == "grpc.health.v1.Health/Check"


def conventional() -> set[str]:
    """Every attribute of the installed conventions that is not deprecated."""
    found = set()
    for module in pkgutil.iter_modules(conventions.__path__):
        content = vars(importlib.import_module(f"{conventions.__name__}.{module.name}"))
        found |= {value for name, value in content.items() if name.isupper()}
    return found


def test_every_name_that_is_not_our_own_is_one_of_the_conventions(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        made.listens("10.0.0.1:8433")
        text = {"generated_tokens": 4, "first_token_ms": 2.0, "finish_reason": "stop"}
        for more in (
            {},
            {"task": "embed"},
            {"task": "generate", **text},
            {"error": "INTERNAL/A/b"},
        ):
            begun = made.began(PREDICT)
            begun.peer = "ipv4:10.0.0.7:4711"
            made.answered(record(**more), begun)
            made.ended(begun, "INTERNAL" if "error" in more else "OK", 0.02)
    names = {name for span in receiver.all_spans() for name in plain(span.attributes)}
    kinds = {name.partition(".")[0] for name in names}
    assert {"rpc", "gen_ai", "network", "client", "server", "error"} <= kinds
    # Renamed after the release of the conventions that is installed.
    names.remove("rpc.status_code")
    assert {name for name in names if not name.startswith("trefoil.")} <= conventional()


def test_a_generation_names_its_model_tokens_and_time_to_the_first(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        wait_for(lambda: made.collect()[-1].stamp)
        text = {"generated_tokens": 4, "first_token_ms": 2.0, "finish_reason": "stop"}
        one_call(made, record(task="generate", label="", tokens_used=9, **text))
    about = plain(receiver.spans()[PREDICT].attributes)
    assert about["gen_ai.request.model"] == about["gen_ai.response.model"] == "stub"
    assert (about["gen_ai.usage.input_tokens"], about["gen_ai.usage.output_tokens"]) == (9, 4)
    assert about["gen_ai.response.time_to_first_chunk"] == 0.002


def test_an_error_of_the_callers_is_not_an_error_type_of_a_span(receiver: Collector) -> None:
    with instruments(configuration_of(os.environ, trace_share=1.0)) as made:
        one_call(made, record(error="INVALID_ARGUMENT/DARK/"), status="INVALID_ARGUMENT")
    about = plain(receiver.spans()[PREDICT].attributes)
    assert about["trefoil.error"] == "INVALID_ARGUMENT/DARK/" and "error.type" not in about
    assert about["rpc.status_code"] == "INVALID_ARGUMENT"
