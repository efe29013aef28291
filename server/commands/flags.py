"""The flags of `server` without a subcommand: one for each setting of ServerConfig, in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.commands.values import (
    at_least_one,
    count,
    kib,
    log_format,
    log_level,
    mib,
    seconds,
    share,
    whole,
)
from server.ops import simulated_clock


@dataclass(frozen=True, slots=True)
class Flag:
    """`read` turns the text into the field's value; None: a switch. `metavar` "": the reader's."""

    name: str
    field: str
    read: Callable[[str], Any] | None
    help: str
    metavar: str = ""


METAVARS: dict[Callable[[str], Any] | None, str] = {
    **{whole: "N", count: "N", seconds: "S", at_least_one: "S"},
    **{mib: "MIB", kib: "KIB", share: "SHARE"},
}


GROUPS: dict[str, tuple[Flag, ...]] = {
    "what to serve, where": (
        Flag(
            "--bundle",
            "bundle",
            Path,
            "the bundle to serve (default: the one this data directory served last, else the "
            "embedded one)",
            "DIR",
        ),
        Flag(
            "--allow-dirty",
            "allow_dirty",
            None,
            "serve even when code or libraries differ from the manifest; marks the stamp dirty",
        ),
        Flag(
            "--require-signature",
            "require_signature",
            Path,
            "refuse a bundle that is not signed by a public key in this file or directory (PEM)",
            "KEYS",
        ),
        Flag(
            "--verify",
            "verify",
            None,
            "hash every file at this start, including large files whose digests are remembered",
        ),
        Flag("--data", "data", Path, "directory for telemetry and loaded bundles", "DIR"),
        Flag(
            "--listen",
            "listen",
            str,
            "the one port for all services; :PORT is every address, unix:/PATH a socket",
            "HOST:PORT",
        ),
        Flag("--insecure", "insecure", None, "accept plaintext connections from other hosts"),
        Flag("--name", "name", str, "name of this server (default: the host name)", "NAME"),
        Flag(
            "--environment",
            "environment",
            str,
            "production, staging, ...: stored with every record",
            "NAME",
        ),
    ),
    "the warm pool": (
        Flag(
            "--warm-pool",
            "warm_pool",
            whole,
            "replicas loaded, warmed and probed before they take traffic",
        ),
        Flag("--device", "device", str, "auto, cpu, cuda or cuda:0,1", "D"),
        Flag("--dtype", "dtype", str, "auto, float32 or bfloat16", "T"),
        Flag("--threads", "threads", count, "torch threads of a replica; 0: cores / replicas"),
        Flag(
            "--decode-threads",
            "decode_threads",
            count,
            "decoder threads of a replica; 0: automatic",
        ),
        Flag(
            "--no-memory-check",
            "memory_check",
            None,
            "start even when the pool appears not to fit in memory",
        ),
        Flag(
            "--load-timeout",
            "load_timeout_s",
            seconds,
            "restart a replica that takes longer to load",
        ),
        Flag(
            "--stall",
            "stall_s",
            seconds,
            "replace a replica that has work and makes no progress for this long",
        ),
        Flag(
            "--restart-first",
            "restart_first_s",
            seconds,
            "wait before the second restart in a row; doubles each time",
        ),
        Flag("--restart-longest", "restart_longest_s", seconds, "longest wait between restarts"),
        Flag(
            "--stable",
            "stable_s",
            seconds,
            "a replica that lived this long ends a series of crashes",
        ),
        Flag(
            "--quarantine",
            "quarantine_s",
            seconds,
            "how long content that killed two replicas is refused",
        ),
    ),
    "batches and the queue": (
        Flag("--max-batch-rows", "max_batch_rows", count, "rows of one forward; 0: automatic"),
        Flag(
            "--max-batch-cost",
            "max_batch_cost",
            count,
            "padded tokens of one forward; 0: automatic",
        ),
        Flag(
            "--max-generations",
            "max_generations",
            whole,
            "texts one replica generates at the same time",
        ),
        Flag(
            "--queue-limit",
            "queue_rows",
            whole,
            "rows that may wait; further ones are refused with RetryInfo",
        ),
        Flag("--queue-mb", "queue_bytes", mib, "total payload that may wait"),
        Flag(
            "--ahead-mb",
            "ahead_bytes",
            mib,
            "payload sent to a replica ahead of its forward; also the largest single example",
        ),
        Flag(
            "--patience",
            "patience_s",
            seconds,
            "order a row without a deadline as if it were due after this time",
        ),
        Flag(
            "--default-deadline",
            "default_deadline_s",
            seconds,
            "deadline of a request that sets none; 0: none",
        ),
        Flag("--grace", "drain_s", seconds, "time to finish accepted work after SIGTERM"),
        Flag(
            "--standby",
            "standby_s",
            seconds,
            "how long the previous bundle stays warm after a switch, for an immediate "
            "rollback, if memory allows",
        ),
        Flag(
            "--keep-bundles",
            "keep_bundles",
            count,
            "unused bundles kept on disk beside the active, loaded and previous ones",
        ),
    ),
    "readiness": (
        Flag(
            "--slo-ms", "slo_ms", seconds, "latency objective shown in the console; 0: none", "MS"
        ),
        Flag(
            "--probe-interval",
            "probe_interval_s",
            seconds,
            "probe an idle replica again after this time",
        ),
        Flag("--probe-runs", "probe_runs", whole, "passes over the golden inputs in one probe"),
        Flag(
            "--slow-after",
            "slow_after",
            whole,
            "slow probes in a row before a replica counts as slow",
        ),
        Flag(
            "--fast-again",
            "fast_again",
            share,
            "a slow replica is ready again below this share of the bundle's limit",
        ),
        Flag(
            "--queue-nearly-full",
            "queue_nearly_full",
            share,
            "report DEGRADED when the queue is fuller than this",
        ),
        Flag(
            "--skew-interval",
            "skew_interval_s",
            at_least_one,
            "how often a replica checks files and memory against what it loaded",
        ),
    ),
    "limits of a request": (
        Flag(
            "--max-message-mb",
            "max_message_bytes",
            mib,
            "size of one message, decompressed; larger payloads need Upload",
        ),
        Flag("--max-examples", "max_examples", whole, "examples in one request"),
        Flag(
            "--max-parts",
            "max_parts",
            whole,
            "parts in one example, unless the bundle allows fewer",
        ),
        Flag(
            "--max-text-kb",
            "max_text_bytes",
            kib,
            "size of one text part, unless the bundle allows less",
        ),
        Flag("--max-labels", "max_labels", whole, "labels in one request"),
        Flag("--max-label-chars", "max_label_chars", whole, "characters in one label"),
        Flag("--max-slices", "max_slices", whole, "slice tags in one example"),
        Flag("--max-new-tokens", "max_new_tokens", whole, "tokens in one generated text"),
        Flag("--max-streams", "max_streams", whole, "concurrent calls on one connection"),
        Flag("--upload-mb", "upload_bytes", mib, "size of one upload"),
        Flag("--upload-peer-mb", "upload_peer_bytes", mib, "total uploads of one host"),
        Flag("--upload-total-mb", "upload_total_bytes", mib, "total uploads of all hosts"),
        Flag("--upload-ttl", "upload_ttl_s", seconds, "how long an upload is kept"),
    ),
    "encryption and roles": (
        Flag("--tls-cert", "tls_cert", Path, "serve over TLS with this certificate", "PEM"),
        Flag(
            "--tls-key",
            "tls_key",
            Path,
            "its private key; both files are read again when they change",
            "PEM",
        ),
        Flag(
            "--tls-client-ca",
            "tls_client_ca",
            Path,
            "require client certificates signed by this CA",
            "PEM",
        ),
        Flag(
            "--tokens",
            "tokens",
            Path,
            "require one of these bearer tokens; `server token` creates them",
            "FILE",
        ),
    ),
    "telemetry": (
        Flag("--no-telemetry", "telemetry", None, "store nothing and evaluate nothing"),
        Flag(
            "--sample-share",
            "sample_share",
            share,
            "share of payloads to store; more of the uncertain and failed ones; 0: none at all",
        ),
        Flag(
            "--keep-days",
            "keep_days",
            at_least_one,
            "how long predictions and payloads are stored; hourly profiles stay longer",
            "DAYS",
        ),
        Flag(
            "--max-telemetry-mb",
            "max_telemetry_bytes",
            mib,
            "largest size of telemetry; the oldest data is deleted first",
        ),
        Flag(
            "--baseline",
            "baseline",
            str,
            "reference of drift: bundle, previous (stamp), last-week (same hour) or "
            "FROM..TO, two ISO times",
            "B",
        ),
        Flag("--tick", "tick_s", at_least_one, "how often drift is evaluated"),
        Flag(
            "--on-alert",
            "on_alert",
            str,
            "run this when an alert opens, worsens or ends; it gets the alert as JSON on its stdin",
            "CMD",
        ),
        Flag(
            "--prometheus",
            "prometheus",
            str,
            "serve metrics there over plain HTTP; the OTEL_* variables configure OTLP",
            "HOST:PORT",
        ),
        Flag(
            "--trace-share",
            "trace_share",
            share,
            "share of calls to trace when the caller has not decided and an exporter is configured",
        ),
        Flag(
            "--simulated-time",
            "simulated_time",
            simulated_clock.read,
            "for demonstrations: telemetry's clock starts at START and runs SPEED times as fast",
            "START,SPEED",
        ),
    ),
    "the log": (
        Flag("--log-format", "log_format", log_format, "text, or json for programs", "F"),
        Flag("--log-level", "log_level", log_level, "debug, info, warning or error", "L"),
    ),
}
