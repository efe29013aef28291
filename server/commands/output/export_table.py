"""Stored predictions as rows of a table for other programs: JSON lines or Parquet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from server.rehearsal.replay import named
from server.telemetry.outputs import OUTPUT_NAMES, OUTPUTS
from server.telemetry.record import FeatureSpec
from server.telemetry.rows import FeatureRow, PredictionRow

BATCH_ROWS = 10_000  # rows of one Parquet row group
FEATURE = "feature."  # prefix of a feature's name in a Parquet column
TEXTS = ("prediction_id", "stamp", "task", "mix", "label", "true_label", "error", "error_message")
TIMES = ("queue_ms", "decode_ms", "preprocess_ms", "forward_ms", "post_ms", "total_ms")
Plain = dict[str, Any]
Schemas = Mapping[str, Sequence[FeatureSpec]]  # by stamp


class NoParquet(Exception):
    """pyarrow is not installed."""


def schemas_of(rows: Iterable[FeatureRow]) -> dict[str, list[FeatureSpec]]:
    found: dict[str, list[FeatureSpec]] = {}
    for row in rows:
        spec = FeatureSpec(row.name, row.modality, row.kind, row.unit, row.categories)
        found.setdefault(row.stamp, []).append(spec)
    return found


def plain_of(row: PredictionRow, schemas: Schemas) -> Plain:
    """One row; unknown values are None, and absent features are left out."""
    record = row.record
    values = np.frombuffer(record.features, "<f4").tolist()
    numbers = {name: _finite(getattr(record, name)) for name in (*OUTPUT_NAMES, *TIMES)}
    return {
        "prediction_id": record.prediction_id,
        "at": datetime.fromtimestamp(record.at, UTC),
        "stamp": record.stamp,
        "task": record.task,
        "mix": record.mix,
        "label": record.label,
        "true_label": row.true_label,
        "error": record.error,
        "error_message": record.error_message,
        **numbers,
        "batch_size": record.batch_size,
        "replica": record.replica,
        "client": record.client,
        "session": record.session,
        "trace_id": record.trace_id,
        "env": record.env,
        "slices": dict(record.slices),
        "batch_mates": list(record.batch_mates),
        "payload_kept": row.payload_kept,
        "sample_p": row.sample_p,
        "features": named(values, schemas.get(record.stamp, ())),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_lines(rows: Iterable[Plain], out: TextIO) -> None:
    """Ends early when `out` has failed: no process reads the rest."""
    for row in rows:
        if getattr(out, "failure", None) is not None:
            return
        at = row["at"].isoformat(timespec="milliseconds")
        out.write(json.dumps(row | {"at": at}, allow_nan=False) + "\n")


def write_parquet(rows: Iterable[Plain], schemas: Schemas, path: Path) -> None:
    """Write a column for every feature of any stamp. Raises NoParquet."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise NoParquet(
            "--format parquet needs pyarrow: pip install 'trefoil-serve[parquet]',"
            " or choose --format jsonl"
        ) from None
    features = _features(schemas)
    schema = _arrow_schema(pyarrow, features)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for some in _batches(rows):
            for row in some:
                row |= {
                    FEATURE + n: v for n, v in row.pop("features").items() if _fits(n, v, features)
                }
            writer.write_table(pyarrow.Table.from_pylist(some, schema))


def _features(schemas: Schemas) -> dict[str, str]:
    """Kind by name; where stamps disagree, the first one decides."""
    found: dict[str, str] = {}
    for specs in schemas.values():
        for spec in specs:
            found.setdefault(spec.name, spec.kind)
    return found


def _fits(name: str, value: object, features: Mapping[str, str]) -> bool:
    return isinstance(value, str) == (features[name] == "categorical")


def _arrow_schema(pyarrow: Any, features: Mapping[str, str]) -> Any:
    text, real, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int32()
    columns = {name: text for name in TEXTS[:1]}
    columns["at"] = pyarrow.timestamp("ms", tz="UTC")
    columns |= {name: text for name in TEXTS[1:]}
    columns |= {spec.name: whole if spec.whole else real for spec in OUTPUTS}
    columns |= {name: real for name in TIMES}
    columns |= {"batch_size": whole, "replica": whole}
    columns |= {name: text for name in ("client", "session", "trace_id", "env")}
    columns["slices"] = pyarrow.map_(text, text)
    columns["batch_mates"] = pyarrow.list_(text)
    columns |= {"payload_kept": pyarrow.bool_(), "sample_p": real}
    for name, kind in features.items():
        columns[FEATURE + name] = text if kind == "categorical" else pyarrow.float32()
    return pyarrow.schema(list(columns.items()))


def _batches(rows: Iterable[Plain]) -> Iterator[list[Plain]]:
    some: list[Plain] = []
    for row in rows:
        some.append(row)
        if len(some) == BATCH_ROWS:
            yield some
            some = []
    if some:
        yield some
