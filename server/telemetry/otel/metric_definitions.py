"""Every metric by name: unit, description, and for histograms the bounds of their explicit form.

Own names begin with `trefoil.`; docs/opentelemetry.md lists the attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

CALL_DURATION = "rpc.server.call.duration"
PREDICTION_DURATION = "trefoil.prediction.duration"
STAGE_DURATION = "trefoil.stage.duration"
BATCH_ROWS = "trefoil.batch.rows"
PREDICTIONS = "trefoil.predictions"
ROWS = "trefoil.rows"
DROPPED = "trefoil.telemetry.dropped"

# The boundaries of the semantic conventions for RPC, seconds; stages are often shorter.
CALL_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STAGE_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *CALL_BOUNDS)
BATCH_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """`unit` as in UCUM; what counts things has none but names them in braces."""

    unit: str
    description: str
    bounds: tuple[float, ...] = ()


HISTOGRAMS = {
    CALL_DURATION: MetricDefinition("s", "Duration of incoming calls", CALL_BOUNDS),
    PREDICTION_DURATION: MetricDefinition(
        "s", "From the queue to the answer of one row", STAGE_BOUNDS
    ),
    STAGE_DURATION: MetricDefinition("s", "Time of one row in one stage", STAGE_BOUNDS),
    BATCH_ROWS: MetricDefinition("{row}", "Rows in the forward that answered a row", BATCH_BOUNDS),
}

# Sums since start, which only grow.
COUNTERS = {
    PREDICTIONS: MetricDefinition("{row}", "Rows that reached the queue, by label or error"),
    ROWS: MetricDefinition("{row}", "Rows by what became of them, refused ones included"),
    "trefoil.retries": MetricDefinition("{row}", "Rows tried once more because their replica died"),
    "trefoil.quarantined": MetricDefinition("{row}", "Rows that killed two replicas"),
    "trefoil.replica.restarts": MetricDefinition("{restart}", "Replica restarts"),
    "trefoil.decoder.restarts": MetricDefinition("{restart}", "Decoder processes replaced"),
    "trefoil.decoder.deadlines": MetricDefinition(
        "{part}", "Decoder processes ended because a part took too long"
    ),
    "trefoil.calls.refused": MetricDefinition("{call}", "Calls refused for want of a place"),
    DROPPED: MetricDefinition("{item}", "Items that were not exported, by signal"),
}

GAUGES = {
    "trefoil.queue.rows": MetricDefinition("{row}", "Rows that wait for a replica"),
    "trefoil.queue.limit": MetricDefinition("{row}", "Rows that may wait; more are refused"),
    "trefoil.queue.seconds": MetricDefinition("s", "What a row that arrives now will wait"),
    "trefoil.in_flight": MetricDefinition("{row}", "Rows a replica has"),
    "trefoil.replicas": MetricDefinition("{replica}", "Replicas by state"),
    "trefoil.replicas.wanted": MetricDefinition("{replica}", "Replicas asked for with --warm-pool"),
    "trefoil.calls.open": MetricDefinition("{call}", "Open calls by what they are for"),
    "trefoil.front.loop.lag": MetricDefinition(
        "s", "Longest turn of the event loop within a minute"
    ),
    "trefoil.ready": MetricDefinition("1", "1 while the server takes traffic, else 0"),
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
