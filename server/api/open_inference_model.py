"""The model in terms of the Open Inference Protocol: tensors, configuration, statistics."""

from __future__ import annotations

from typing import Any

from server.api import open_inference_messages as v2
from server.api.model_statistics import ModelStatistics, Total
from server.config import ServerConfig
from server.request.modalities import MODALITIES
from server.types import Facts

# Name -> datatype. The width of `scores` is the number of labels, of `embedding` the hidden size.
OUTPUTS = {
    "label": "BYTES",
    "score": "FP32",
    "scores": "FP32",
    "prediction_id": "BYTES",
    "embedding": "FP32",
    "parts_used": "BYTES",
}
ONLY_BY_NAME = frozenset(("embedding", "parts_used"))
CONFIG_TYPES = {"BYTES": 13, "FP32": 11}  # values of DataType in ModelConfig


def model_metadata(name: str, version: str, facts: Facts) -> Any:
    """Shapes with the row dimension first, as for any model that supports batches.

    `properties` is not sent: KServe and Triton have no such field, and MLServer uses its number for
    another one. The stamp is in the parameters of the model's configuration and of every answer.
    """
    metadata = v2.ModelMetadataResponse(name=name, versions=[version], platform="trefoil")
    for tensor in MODALITIES:
        metadata.inputs.add(name=tensor, datatype="BYTES", shape=[-1, 1])
    for tensor, datatype in OUTPUTS.items():
        metadata.outputs.add(name=tensor, datatype=datatype, shape=[-1, _width(tensor, facts)])
    return metadata


def model_config(name: str, facts: Facts, config: ServerConfig) -> Any:
    """All inputs are optional: one model serves every mix of modalities."""
    response = v2.ModelConfigResponse()
    model = response.config
    model.name = name
    model.platform = "trefoil"
    model.backend = "trefoil"
    model.max_batch_size = config.max_examples
    for tensor in MODALITIES:
        model.input.add(name=tensor, data_type=CONFIG_TYPES["BYTES"], dims=[1], optional=True)
    for tensor, datatype in OUTPUTS.items():
        model.output.add(
            name=tensor, data_type=CONFIG_TYPES[datatype], dims=[_width(tensor, facts)]
        )
    model.instance_group.add(name=name, count=config.warm_pool)
    model.dynamic_batching.SetInParent()
    model.model_transaction_policy.decoupled = False
    model.response_cache.enable = False
    model.parameters["stamp"].string_value = facts.stamp
    model.parameters["stamp_name"].string_value = facts.stamp_name
    return response


def model_statistics(name: str, version: str, statistics: ModelStatistics) -> Any:
    """Rows of both wire protocols since start, in Triton's form."""
    response = v2.ModelStatisticsResponse()
    model = response.model_stats.add(name=name, version=version)
    model.last_inference = statistics.last_unix_ms
    model.inference_count = statistics.rows
    model.execution_count = round(statistics.executions)
    sums = model.inference_stats
    _set(sums.success, statistics.success)
    _set(sums.fail, statistics.fail)
    _set(sums.queue, statistics.queue)
    _set(sums.compute_input, statistics.compute_input)
    _set(sums.compute_infer, statistics.compute_infer)
    _set(sums.compute_output, statistics.compute_output)
    return response


def _set(duration: Any, total: Total) -> None:
    duration.count = total.count
    duration.ns = int(total.ms * 1e6)


def _width(tensor: str, facts: Facts) -> int:
    return {"scores": len(facts.labels), "embedding": facts.embedding_dimensions}.get(tensor, 1)
