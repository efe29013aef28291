"""Every setting of the server, written once: field, default, flag, reader and help.

0 means "automatic" where the help states it. It never means "no limit": everything is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from server.ops import simulated_clock
from server.values import MIB, at_least_one, by_stamp, count, kib, mib, seconds, share, whole
from server.values import log_format as read_log_format
from server.values import log_level as read_log_level

Default = TypeVar("Default")
CHOOSE = Path()  # no bundle was named: see server/deploy/boot_choice.py
EMBEDDED_BUNDLE = Path(__file__).resolve().parent.parent / "pipelines" / "triage" / "bundle"


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting, without its default. `read` turns a text into the value; bool means that the flag
    is a switch. An empty `name` is derived from the field; an empty `group` repeats the one
    before."""

    read: Callable[[str], Any]
    help: str
    metavar: str
    name: str
    group: str


def setting(
    default: Default,
    read: Callable[[str], Any],
    help: str,
    metavar: str = "",
    *,
    flag: str = "",
    group: str = "",
) -> Default:
    return field(default=default, metadata={"": Flag(read, help, metavar, flag, group)})


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The settings in the order of `server --help`. A group continues until the next field that
    names one."""

    bundle: Path = setting(
        CHOOSE,
        Path,
        "the bundle to serve (default: the one this data directory served last, else the "
        "embedded one)",
        "DIR",
        group="what to serve, where",
    )
    allow_dirty: bool = setting(
        False,
        bool,
        "serve even when code or libraries differ from the manifest; marks the stamp dirty",
    )
    # One of the keys must have signed.
    require_signature: Path | None = setting(
        None,
        Path,
        "refuse a bundle that is not signed by a public key in this file or directory (PEM)",
        "KEYS",
    )
    expect_stamp: str = setting(
        "",
        str,
        "in a fleet: stay not ready until this stamp is served, and load it from the store; a file "
        "that holds the stamp is read again until then",
        "STAMP|FILE",
    )
    expect_from: str = setting(
        "",
        by_stamp,
        "fetch the expected stamp from here when it is not in the store; {stamp} stands for it, as "
        "in https://HOST/{stamp} or oci://HOST/REPOSITORY:{stamp}",
        "URL",
    )
    verify: bool = setting(
        False,
        bool,
        "hash every file at this start, including large files whose digests are remembered",
    )
    data: Path = setting(
        Path("trefoil-data"), Path, "directory for telemetry and loaded bundles", "DIR"
    )
    listen: str = setting(
        "127.0.0.1:8433",
        str,
        "the one port for all services; :PORT is every address, unix:/PATH a socket",
        "HOST:PORT",
    )
    http: str = setting(
        "",
        str,
        "also serve HTTP there: forms, OpenAI's API, the Open Inference Protocol's REST, probes, "
        "metrics; the same TLS, roles and limits",
        "HOST:PORT",
    )
    insecure: bool = setting(False, bool, "accept plaintext connections from other hosts")
    name: str = setting("", str, "name of this server (default: the host name)", "NAME")
    environment: str = setting(
        "", str, "production, staging, ...: stored with every record", "NAME"
    )

    warm_pool: int = setting(
        1,
        whole,
        "replicas loaded, warmed and probed before they take traffic",
        group="the warm pool",
    )
    device: str = setting("auto", str, "auto, cpu, cuda or cuda:0,1", "D")
    dtype: str = setting("auto", str, "auto, float32 or bfloat16", "T")
    threads: int = setting(0, count, "torch threads of a replica; 0: cores / replicas")
    decode_threads: int = setting(0, count, "decoders of a replica, at least 2; 0: automatic")
    fork_server: bool = setting(
        True, bool, "import the libraries in every replica instead of forking it"
    )
    cuda_graphs: bool = setting(
        True, bool, "on a GPU, launch each kernel instead of replaying recorded CUDA graphs"
    )
    share_weights: bool = setting(
        True, bool, "let each replica hold weights of its own instead of sharing one copy a device"
    )
    memory_check: bool = setting(
        True, bool, "start even when the pool appears not to fit in memory"
    )
    load_memory_mb: int = setting(
        0,
        count,
        "memory a replica may take while it loads, on a CPU; 0: 5 x the weights + 4096 MiB",
    )
    load_timeout_s: float = setting(900.0, seconds, "restart a replica that takes longer to load")
    stall_s: float = setting(
        30.0, seconds, "replace a replica that has work and makes no progress for this long"
    )
    restart_first_s: float = setting(
        0.5, seconds, "wait before the second restart in a row; doubles each time"
    )
    restart_longest_s: float = setting(30.0, seconds, "longest wait between restarts")
    stable_s: float = setting(
        60.0, seconds, "a replica that lived this long ends a series of crashes"
    )
    quarantine_s: float = setting(
        600.0, seconds, "how long content that killed two replicas is refused"
    )

    # 0 = automatic: 8 on a CPU, 32 on a GPU.
    max_batch_rows: int = setting(
        0, count, "rows of one forward; 0: automatic", group="batches and the queue"
    )
    max_batch_cost: int = setting(0, count, "padded tokens of one forward; 0: automatic")
    max_generations: int = setting(8, whole, "texts one replica generates at the same time")
    queue_rows: int = setting(
        256,
        whole,
        "rows that may wait; further ones are refused with RetryInfo",
        flag="--queue-limit",
    )
    queue_bytes: int = setting(256 * MIB, mib, "total payload that may wait")
    ahead_bytes: int = setting(
        64 * MIB,
        mib,
        "payload sent to a replica ahead of its forward; also the largest single example",
    )
    patience_s: float = setting(
        5.0, seconds, "order a row without a deadline as if it were due after this time"
    )
    default_deadline_s: float = setting(
        60.0, seconds, "deadline of a request that sets none; 0: none"
    )
    drain_s: float = setting(
        20.0, seconds, "time to finish accepted work after SIGTERM", flag="--grace"
    )
    # None: automatic, see server/ops/leaving.py.
    lame_duck_s: float | None = setting(
        None,
        seconds,
        "time after SIGTERM in which health reports NOT_SERVING and calls are still served "
        "(default: 5 under a service manager or Kubernetes, else 0)",
        "S",
        flag="--lame-duck",
    )
    connection_age_s: float | None = setting(
        None,
        seconds,
        "ask clients for a new connection after this time, so that new servers get traffic; 0: "
        "never (default: 300, 0 when only this machine can connect)",
        "S",
        flag="--connection-age",
    )
    standby_s: float = setting(
        600.0,
        seconds,
        "how long the previous bundle stays warm after a switch, for an immediate "
        "rollback, if memory allows",
    )
    # The newest first.
    keep_bundles: int = setting(
        5, count, "unused bundles kept on disk beside the active, loaded and previous ones"
    )

    slo_ms: float = setting(
        0.0, seconds, "latency objective shown in the console; 0: none", "MS", group="readiness"
    )
    probe_interval_s: float = setting(30.0, seconds, "probe an idle replica again after this time")
    # Over one mix's golden inputs; the median is compared.
    probe_runs: int = setting(3, whole, "passes over the golden inputs in one probe")
    slow_after: int = setting(2, whole, "slow probes in a row before a replica counts as slow")
    fast_again: float = setting(
        0.8, share, "a slow replica is ready again below this share of the bundle's limit"
    )
    # Share of queue_rows.
    queue_nearly_full: float = setting(
        0.9, share, "report DEGRADED when the queue is fuller than this"
    )
    skew_interval_s: float = setting(
        60.0, at_least_one, "how often a replica checks files and memory against what it loaded"
    )

    max_message_bytes: int = setting(
        16 * MIB,
        mib,
        "size of one message, decompressed; larger payloads need Upload",
        group="limits of a request",
    )
    max_examples: int = setting(64, whole, "examples in one request")
    max_parts: int = setting(32, whole, "parts in one example, unless the bundle allows fewer")
    max_text_bytes: int = setting(
        64 * 1024, kib, "size of one text part, unless the bundle allows less"
    )
    max_labels: int = setting(256, whole, "labels in one request")
    max_label_chars: int = setting(256, whole, "characters in one label")
    max_slices: int = setting(16, whole, "slice tags in one example")
    max_new_tokens: int = setting(256, whole, "tokens in one generated text")
    max_expected_stamps: int = setting(64, whole, "expected stamps in one request")
    accept_gzip: bool = setting(
        False,
        bool,
        "accept compressed messages; each may unpack to --max-message-mb however small it arrives",
    )
    max_connections: int = setting(
        1024, whole, "open connections, within the process's limit of file descriptors"
    )
    max_connections_peer: int = setting(512, whole, "of these, those of one host")
    # Between the head of a call and the last byte of its message.
    arriving_bytes: int = setting(
        128 * MIB, mib, "total bytes of messages that have arrived only in part"
    )
    arriving_peer_bytes: int = setting(64 * MIB, mib, "of these, those of one host")
    max_streams: int = setting(256, whole, "concurrent calls on one connection")
    # Of one host, streams may be a quarter.
    max_calls: int = setting(4096, whole, "open calls that predict; half as many streams")
    max_calls_peer: int = setting(2048, whole, "of these, open calls of one host")
    max_watchers: int = setting(256, whole, "open Watch calls of Observe, and of health")
    max_watchers_peer: int = setting(32, whole, "of these, those of one host")
    max_http_connections: int = setting(1024, whole, "open connections of --http")
    max_http_connections_peer: int = setting(256, whole, "of these, those of one host")
    upload_bytes: int = setting(64 * MIB, mib, "size of one upload")
    # At one time.
    upload_peer_bytes: int = setting(96 * MIB, mib, "total uploads of one host")
    upload_peer_count: int = setting(64, whole, "number of uploads of one host")
    upload_total_bytes: int = setting(512 * MIB, mib, "total uploads of all hosts")
    upload_ttl_s: float = setting(120.0, seconds, "how long an upload is kept")

    tls_cert: Path | None = setting(
        None, Path, "serve over TLS with this certificate", "PEM", group="encryption and roles"
    )
    tls_key: Path | None = setting(
        None, Path, "its private key; both files are read again when they change", "PEM"
    )
    tls_client_ca: Path | None = setting(
        None, Path, "require client certificates signed by this CA", "PEM"
    )
    # Needs TLS.
    tokens: Path | None = setting(
        None, Path, "require one of these bearer tokens; `server token` creates them", "FILE"
    )

    telemetry: bool = setting(True, bool, "store nothing and evaluate nothing", group="telemetry")
    sample_share: float = setting(
        0.05,
        share,
        "share of payloads to store; more of the uncertain and failed ones; 0: none at all",
    )
    # Read at the start. 0600.
    payload_key: Path | None = setting(
        None,
        Path,
        "encrypt stored payloads (AES-256-GCM) with the first key in this file; the others decrypt",
        "FILE",
    )
    keep_days: float = setting(
        7.0,
        at_least_one,
        "how long predictions and payloads are stored; hourly profiles stay longer",
        "DAYS",
    )
    max_telemetry_bytes: int = setting(
        4 << 30, mib, "largest size of telemetry; the oldest data is deleted first"
    )
    baseline: str = setting(
        "bundle",
        str,
        "reference of drift: bundle, previous (stamp), last-week (same hour) or "
        "FROM..TO, two ISO times",
        "B",
    )
    tick_s: float = setting(300.0, at_least_one, "how often drift is evaluated")
    on_alert: str = setting(
        "",
        str,
        "run this when an alert opens, worsens or ends; it gets the alert as JSON on its stdin",
        "CMD",
    )
    runbooks: str = setting(
        "docs/runbooks",
        str,
        "where your pages KIND.md about each kind of alert are; --on-alert gets the address of one",
        "URL",
    )
    prometheus: str = setting(
        "",
        str,
        "serve metrics there over plain HTTP; the OTEL_* variables configure OTLP",
        "HOST:PORT",
    )
    trace_share: float = setting(
        0.05,
        share,
        "share of calls to trace when the caller has not decided and an exporter is configured",
    )
    # Unix seconds at start, speed.
    simulated_time: tuple[float, float] | None = setting(
        None,
        simulated_clock.read,
        "for demonstrations: telemetry's clock starts at START and runs SPEED times as fast",
        "START,SPEED",
    )

    log_format: str = setting(
        "text", read_log_format, "text, or json for programs", "F", group="the log"
    )
    log_level: str = setting("info", read_log_level, "debug, info, warning or error", "L")
