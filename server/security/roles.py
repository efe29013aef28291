"""The only table of which role may call which method. A method that is not in it is refused to all
callers."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["predict", "observe", "observe-payloads", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

# Open methods answer without any credential: a kubelet or a load balancer calls them.
OPEN: frozenset[Role] = frozenset()
ANY: frozenset[Role] = frozenset(ROLES)
PREDICT: frozenset[Role] = frozenset({"predict", "admin"})
OBSERVE: frozenset[Role] = frozenset({"observe", "observe-payloads", "admin"})
# For Observe.Samples: the content that callers sent, besides the answers.
PAYLOADS: frozenset[Role] = frozenset({"observe-payloads", "admin"})
ADMIN: frozenset[Role] = frozenset({"admin"})


def _methods(service: str, names: str, roles: frozenset[Role]) -> dict[str, frozenset[Role]]:
    return {f"/{service}/{name}": roles for name in names.split()}


_OPEN_INFERENCE = "inference.GRPCInferenceService"
_REFLECTION = "ServerReflectionInfo"
METRICS = "/trefoil.http.Metrics/Scrape"  # over HTTP only: GET /metrics

ALLOWED: dict[str, frozenset[Role]] = {
    **_methods("trefoil.v1.Inference", "Predict PredictStream Generate Upload Feedback", PREDICT),
    **_methods("trefoil.v1.Inference", "Describe", ANY),
    **_methods("trefoil.v1.Observe", "Watch History Samples Slices", OBSERVE),
    **_methods("trefoil.v1.Observe", "Acknowledge Silence Annotate Verify", OBSERVE),
    **_methods("trefoil.v1.Admin", "Load Activate Rollback Rehearse Bundles Drain", ADMIN),
    **_methods("trefoil.v1.Admin", "Restart Replay", ADMIN),
    **_methods(_OPEN_INFERENCE, "ServerLive ServerReady ModelReady", OPEN),
    **_methods(_OPEN_INFERENCE, "ServerMetadata ModelMetadata ModelConfig ModelStatistics", ANY),
    **_methods(_OPEN_INFERENCE, "RepositoryIndex", ANY),
    **_methods(_OPEN_INFERENCE, "ModelInfer ModelStreamInfer", PREDICT),
    **_methods("grpc.health.v1.Health", "Check Watch List", OPEN),
    **_methods("grpc.reflection.v1.ServerReflection", _REFLECTION, ANY),
    METRICS: OBSERVE,
    **_methods("grpc.reflection.v1alpha.ServerReflection", _REFLECTION, ANY),
}


# Written into the audit log, whether allowed or denied.
AUDITED = frozenset(
    (
        *(method for method, roles in ALLOWED.items() if roles == ADMIN),
        "/trefoil.v1.Observe/Acknowledge",
        "/trefoil.v1.Observe/Silence",
        "/trefoil.v1.Observe/Annotate",
    )
)


def is_open(method: str) -> bool:
    return method in ALLOWED and ALLOWED[method] == OPEN


def permits(method: str, role: Role) -> bool:
    """Default deny: a method that the table does not name is permitted to no role."""
    return role in ALLOWED.get(method, frozenset())
