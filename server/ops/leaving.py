"""How a server takes leave of its clients: how long it still serves, how old a connection gets."""

from __future__ import annotations

from collections.abc import Mapping

KUBERNETES = "KUBERNETES_SERVICE_HOST"  # set in every container of a pod
# What preStop hooks of Kubernetes wait for until endpoints have forgotten a pod.
LAME_DUCK_S = 5.0
# Long beside a handshake (milliseconds), short beside a roll-out.
CONNECTION_AGE_S = 300.0


def lame_duck_s(
    asked: float | None, managed: bool, environment: Mapping[str, str]
) -> tuple[float, str]:
    """(seconds, reason) for which calls are served after health reports NOT_SERVING."""
    if asked is not None:
        return asked, "as configured"
    if managed:
        return LAME_DUCK_S, "a service manager started this server"
    if KUBERNETES in environment:
        return LAME_DUCK_S, "this server runs in Kubernetes"
    return 0.0, "no service manager started this server"


def connection_age_s(asked: float | None, local: bool) -> tuple[float, str]:
    """(seconds, reason) after which a connection is closed in good order; 0: never."""
    if asked is not None:
        return asked, "as configured"
    if local:
        return 0.0, "only this machine can connect"
    return CONNECTION_AGE_S, "new servers get their share of the connections"
