"""Every metric by name: unit, description, and for histograms the bounds of their explicit form.

This project's own names begin with `trefoil.`; docs/opentelemetry.md lists the attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

# The release that the names follow; its conventions for RPC are stable.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.45.0"
CALL_DURATION = "rpc.server.call.duration"
PREDICTION_DURATION = "trefoil.prediction.duration"
STAGE_DURATION = "trefoil.stage.duration"
BATCH_ROWS = "trefoil.batch.rows"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"
NEXT_TOKEN = "gen_ai.server.time_per_output_token"
PREDICTIONS = "trefoil.predictions"
GENERATED = "trefoil.generated.tokens"
ROWS = "trefoil.rows"
DROPPED = "trefoil.telemetry.dropped"

# The boundaries of the semantic conventions for RPC, in seconds; stages are often shorter.
CALL_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STAGE_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *CALL_BOUNDS)
# The boundaries of the semantic conventions for generative AI, in seconds.
FIRST_TOKEN_BOUNDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, *CALL_BOUNDS[5:])
NEXT_TOKEN_BOUNDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """`unit` as in UCUM; a count of things has no unit, and names the things in braces."""

    unit: str
    description: str
    bounds: tuple[float, ...] = ()


HISTOGRAMS = {
    CALL_DURATION: MetricDefinition("s", "Duration of incoming calls", CALL_BOUNDS),
    PREDICTION_DURATION: MetricDefinition(
        "s", "From the queue to the answer of one row", STAGE_BOUNDS
    ),
    STAGE_DURATION: MetricDefinition("s", "Time of one row in one stage", STAGE_BOUNDS),
    FIRST_TOKEN: MetricDefinition(
        "s", "From the queue to the first token of a generation", FIRST_TOKEN_BOUNDS
    ),
    NEXT_TOKEN: MetricDefinition(
        "s", "Time for each token after the first of a generation", NEXT_TOKEN_BOUNDS
    ),
    BATCH_ROWS: MetricDefinition("{row}", "Rows in the forward that answered a row", BATCH_BOUNDS),
}

# Sums since start, which only grow.
COUNTERS = {
    PREDICTIONS: MetricDefinition("{row}", "Rows that reached the queue, by label or error"),
    GENERATED: MetricDefinition("{token}", "Tokens of generated texts"),
    ROWS: MetricDefinition("{row}", "Rows by what became of them, refused ones included"),
    "trefoil.retries": MetricDefinition("{row}", "Rows tried once more because their replica died"),
    "trefoil.quarantined": MetricDefinition("{row}", "Rows that killed two replicas"),
    "trefoil.replica.restarts": MetricDefinition("{restart}", "Replica restarts"),
    "trefoil.replica.cpu": MetricDefinition("s", "CPU time of a replica and of its decoders"),
    "trefoil.decoder.restarts": MetricDefinition("{restart}", "Decoder processes replaced"),
    "trefoil.decoder.deadlines": MetricDefinition(
        "{part}", "Decoder processes ended because a part took too long"
    ),
    "trefoil.decoder.lines": MetricDefinition(
        "{line}", "Lines that decoders wrote to standard error, logged or not"
    ),
    "trefoil.parts.foreign": MetricDefinition(
        "{row}", "Rows refused because a part is in a format that is not decoded"
    ),
    "trefoil.parts.cut": MetricDefinition(
        "{part}", "Parts of which some was not used, or may be missing"
    ),
    "trefoil.parts.warned": MetricDefinition("{part}", "Parts used with a warning"),
    "trefoil.calls.refused": MetricDefinition("{call}", "Calls refused for want of a place"),
    "trefoil.http.connections.refused": MetricDefinition(
        "{connection}", "Connections to the HTTP port refused for want of a place"
    ),
    "trefoil.connections.cut": MetricDefinition(
        "{connection}", "Connections ended because their host has too many"
    ),
    "trefoil.messages.cut": MetricDefinition(
        "{message}", "Messages cut while they arrived, for their size or their time"
    ),
    DROPPED: MetricDefinition("{item}", "Items that were not exported, by signal"),
}

GAUGES = {
    "trefoil.queue.rows": MetricDefinition("{row}", "Rows that wait for a replica"),
    "trefoil.queue.limit": MetricDefinition("{row}", "Rows that may wait; more are refused"),
    "trefoil.queue.seconds": MetricDefinition("s", "What a row that arrives now will wait"),
    "trefoil.in_flight": MetricDefinition("{row}", "Rows a replica has"),
    "trefoil.replicas": MetricDefinition("{replica}", "Replicas by state"),
    "trefoil.replicas.wanted": MetricDefinition("{replica}", "Replicas asked for with --warm-pool"),
    "trefoil.replica.memory": MetricDefinition(
        "By", "Memory of a replica: private to it, and its share of what replicas share"
    ),
    "trefoil.host.cpu": MetricDefinition("1", "Share of the cores that was busy, of all programs"),
    "trefoil.host.memory.used": MetricDefinition("By", "Memory in use on the host or in its group"),
    "trefoil.host.memory.total": MetricDefinition("By", "Memory of the host, or its group's limit"),
    "trefoil.host.disk.free": MetricDefinition("By", "Free space where --data is"),
    "trefoil.host.disk.total": MetricDefinition("By", "Size of the file system where --data is"),
    "trefoil.gpu.memory.used": MetricDefinition("By", "Memory in use on a GPU, of all programs"),
    "trefoil.gpu.memory.total": MetricDefinition("By", "Memory of a GPU"),
    "trefoil.gpu.utilisation": MetricDefinition(
        "1", "Share of time in which a kernel ran on a GPU"
    ),
    "trefoil.gpu.power": MetricDefinition("W", "Power that a GPU draws"),
    "trefoil.gpu.temperature": MetricDefinition("Cel", "Temperature of a GPU"),
    "trefoil.calls.open": MetricDefinition("{call}", "Open calls by what they are for"),
    "trefoil.http.connections": MetricDefinition(
        "{connection}", "Open connections to the HTTP port"
    ),
    "trefoil.connections.open": MetricDefinition("{connection}", "Open connections of the port"),
    "trefoil.messages.arriving": MetricDefinition(
        "By", "Bytes of messages that have arrived only in part"
    ),
    "trefoil.front.loop.lag": MetricDefinition(
        "s", "Longest turn of the event loop within a minute"
    ),
    "trefoil.ready": MetricDefinition("1", "1 while the server takes traffic, else 0"),
    "trefoil.draining": MetricDefinition("1", "1 while the server leaves on request, else 0"),
    "trefoil.drift.ks": MetricDefinition("1", "Kolmogorov-Smirnov distance from the baseline"),
    "trefoil.drift.kl": MetricDefinition(
        "nat", "Kullback-Leibler divergence of now from the baseline"
    ),
    "trefoil.drift.excess_kl": MetricDefinition(
        "nat", "That divergence beyond what chance explains"
    ),
    "trefoil.drift.psi": MetricDefinition("1", "Population stability index"),
    "trefoil.drift.js": MetricDefinition("bit", "Jensen-Shannon divergence"),
    "trefoil.drift.n": MetricDefinition("{row}", "Rows the scores rest on, corrected for bursts"),
    "trefoil.drift.level": MetricDefinition(
        "1", "-2 insufficient data, -1 learning, 0 ok, 1 warning, 2 high, 3 critical"
    ),
    "trefoil.quality.accuracy": MetricDefinition(
        "1", "Share of right predictions, realised or estimated"
    ),
    "trefoil.quality.value": MetricDefinition(
        "1", "Value of 1,000 predictions, realised or estimated"
    ),
    "trefoil.quality.calibration_error": MetricDefinition(
        "1", "Expected calibration error, labelled rows"
    ),
    "trefoil.quality.labelled": MetricDefinition(
        "1", "Share of predictions whose outcome is known"
    ),
    "trefoil.quality.label_delay": MetricDefinition("s", "Median time until an outcome is known"),
}
