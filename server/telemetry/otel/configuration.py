"""Which signals are switched on, from --prometheus and OpenTelemetry's own environment variables.

The SDK reads the other variables (endpoint, headers, certificates, timeouts).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from server.telemetry.errors import ExportRefused

SIGNALS = ("traces", "metrics", "logs")
EXPORT_INTERVAL_S = 60.0  # the default of the SDK specification
DELTA = ("delta", "lowmemory")
# 20 s at 600 requests/s with 6 spans each, 5 % of them sampled.
QUEUE = 4096
# The SDK's 512 is too high: encoding that many spans keeps the event loop waiting for the
# interpreter for 20 ms.
BATCH = 64


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many spans or events may wait to be sent, and how many are sent at once."""

    most: int = QUEUE
    batch: int = BATCH


@dataclass(frozen=True, slots=True)
class OtelConfiguration:
    """`otlp` are the signals sent over OTLP. `sampler` "" selects the one that the environment
    names."""

    otlp: frozenset[str] = frozenset()
    prometheus: str = ""  # HOST:PORT
    scraped: bool = False  # another port of this server shows the metrics
    trace_share: float | None = None  # None: the environment names a sampler
    metric_interval_s: float = EXPORT_INTERVAL_S
    delta: bool = False  # temporality of metrics sent over OTLP
    explicit_buckets: bool = False  # for collectors without exponential histograms
    spans: QueueLimits = QueueLimits()
    events: QueueLimits = QueueLimits()
    reason: str = ""

    @property
    def on(self) -> bool:
        return bool(self.otlp or self.prometheus or self.scraped)


def configuration_of(
    environ: Mapping[str, str],
    prometheus: str = "",
    trace_share: float = 0.05,
    scraped: bool = False,
) -> OtelConfiguration:
    """Raises ExportRefused for a setting that cannot be fulfilled."""
    if prometheus:
        split_address(prometheus)
    otlp = frozenset(signal for signal in SIGNALS if _wanted(environ, signal))
    for signal in sorted(otlp):
        _check_protocol(environ, signal)
    temporality = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "")
    buckets = environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "")
    return OtelConfiguration(
        otlp=otlp,
        prometheus=prometheus,
        scraped=scraped,
        trace_share=None if environ.get("OTEL_TRACES_SAMPLER") else trace_share,
        metric_interval_s=_interval_s(environ),
        delta=temporality.strip().lower() in DELTA,
        explicit_buckets=buckets.strip().lower() == "explicit_bucket_histogram",
        spans=_waiting(environ, "OTEL_BSP"),
        events=_waiting(environ, "OTEL_BLRP"),
        reason=_reason(environ, otlp),
    )


def named_attributes(environ: Mapping[str, str]) -> dict[str, str]:
    """The attributes of OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME, which identify this server
    to its operators."""
    pairs = (pair.partition("=") for pair in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","))
    named = {name.strip(): unquote(value.strip()) for name, equals, value in pairs if equals}
    if environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = environ["OTEL_SERVICE_NAME"]
    return named


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as (host, port); the host is "" for every address. Raises ExportRefused."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ExportRefused(f"--prometheus {address!r} is not HOST:PORT or :PORT")
    return host.strip("[]"), int(port)


def _wanted(environ: Mapping[str, str], signal: str) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    named = {name.strip() for name in environ.get(variable, "").lower().split(",")} - {""}
    unknown = sorted(named - {"otlp", "none"})
    if unknown:
        hint = "; --prometheus HOST:PORT serves a scrape" if "prometheus" in unknown else ""
        raise ExportRefused(f"{variable}={unknown[0]}: there are otlp and none{hint}")
    if named:
        return "otlp" in named
    return any(environ.get(name) for name in _specific(signal, "ENDPOINT"))


def _check_protocol(environ: Mapping[str, str], signal: str) -> None:
    for name in _specific(signal, "PROTOCOL"):
        protocol = environ.get(name, "").strip().lower()
        if protocol == "grpc":
            return
        if protocol:
            raise ExportRefused(f"{name}={protocol}: this server speaks OTLP over grpc only")


def _specific(signal: str, name: str) -> tuple[str, str]:
    """The signal's own variable if it is set, otherwise the one for all signals."""
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"


def _interval_s(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "")
    try:
        interval_s = float(text) / 1e3 if text else EXPORT_INTERVAL_S
    except ValueError:
        interval_s = 0.0
    if not 0.0 < interval_s < float("inf"):
        raise ExportRefused(f"OTEL_METRIC_EXPORT_INTERVAL={text}: milliseconds above 0 are needed")
    return interval_s


def _waiting(environ: Mapping[str, str], prefix: str) -> QueueLimits:
    most = _count(environ, f"{prefix}_MAX_QUEUE_SIZE", QUEUE)
    return QueueLimits(most, min(most, _count(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE", BATCH)))


def _count(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) == 0:
        raise ExportRefused(f"{name}={text}: a count above 0 is needed")
    return int(text)


def _reason(environ: Mapping[str, str], otlp: frozenset[str]) -> str:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return "OTEL_SDK_DISABLED is true"
    if not otlp:
        return (
            "neither OTEL_EXPORTER_OTLP_ENDPOINT nor OTEL_TRACES_EXPORTER=otlp or its like is set"
        )
    named = sorted(
        name
        for name in environ
        if name.startswith("OTEL_") and name.endswith(("_ENDPOINT", "_EXPORTER"))
    )
    return "by " + ", ".join(named)
