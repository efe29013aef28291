"""The manifests in installers/kubernetes, rendered and validated; nothing is applied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("yaml")

from tests.installers import manifests
from tests.installers.manifests import KUBERNETES, OVERLAYS
from tests.installers.tools import Failed, Skipped

Check = Callable[[Path, str], str]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("check", manifests.CHECKS, ids=lambda check: check.__name__)
def test_kubernetes_manifest(check: Check, overlay: str) -> None:
    assert unless_skipped(check, KUBERNETES, overlay)


def unless_skipped(check: Check, folder: Path, overlay: str) -> str:
    try:
        return check(folder, overlay)
    except Skipped as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("check", "overlay", "file", "right", "wrong"),
    [
        (manifests.kinds_are_valid, "base", "base/deployment.yaml", "periodSeconds", "periodSecs"),
        (manifests.kinds_are_valid, "base", "base/monitor.yaml", "endpoints", "endpoint"),
        (manifests.kinds_are_valid, "base", "base/scaling.yaml", "minReplicaCount", "minReplicas"),
        (
            manifests.kinds_are_valid,
            "overlays/kserve",
            "overlays/kserve/runtime.yaml",
            "failureThreshold: 180",
            "failureThreshold: many",
        ),
        (manifests.flags_are_known, "base", "base/deployment.yaml", "--warm-pool", "--warm-pools"),
        (manifests.flags_are_known, "overlays/gpu", "overlays/gpu/gpu.yaml", "_DEVICE", "_GPU"),
        (
            manifests.grace_is_waited_for,
            "base",
            "base/deployment.yaml",
            "terminationGracePeriodSeconds: 60",
            "terminationGracePeriodSeconds: 30",
        ),
        (
            manifests.grace_is_waited_for,
            "overlays/kserve",
            "overlays/kserve/inference.yaml",
            "terminationGracePeriodSeconds: 60",
            "terminationGracePeriodSeconds: 30",
        ),
        (
            manifests.probes_are_answered,
            "base",
            "base/deployment.yaml",
            "service: trefoil.live",
            "service: trefoil.ready",
        ),
        (
            manifests.probes_are_answered,
            "overlays/gpu",
            "components/mtls/encrypted.yaml",
            "--for=live",
            "--for=ready",
        ),
        (
            manifests.pods_are_hardened,
            "base",
            "base/deployment.yaml",
            "type: RuntimeDefault",
            "type: Unconfined",
        ),
        (manifests.pods_are_hardened, "base", "base/deployment.yaml", "medium: Memory", "# disk"),
        (
            manifests.pods_are_hardened,
            "overlays/envoy",
            "overlays/envoy/proxy.yaml",
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
        ),
        (
            manifests.selectors_meet,
            "base",
            "base/disruption.yaml",
            "component: server",
            "component: servers",
        ),
        (manifests.selectors_meet, "base", "base/monitor.yaml", "port: metrics", "port: metric"),
        # In selectors the label would be asked of callers too.
        (
            manifests.selectors_meet,
            "base",
            "base/kustomization.yaml",
            "includeTemplates: true",
            "includeSelectors: true",
        ),
        (
            manifests.scaled_on_what_is_measured,
            "base",
            "base/scaling.yaml",
            "trefoil_queue_seconds",
            "trefoil_queue_length",
        ),
        (
            manifests.proxy_is_understood,
            "overlays/envoy",
            "overlays/envoy/envoy.yaml",
            "lb_policy: RING_HASH",
            "lb_policy: RING",
        ),
    ],
)
def test_a_spoilt_manifest_is_noticed(
    check: Check, overlay: str, file: str, right: str, wrong: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))
    with pytest.raises(Failed):
        unless_skipped(check, copy, overlay)


def test_the_image_is_the_one_that_is_built() -> None:
    for overlay in OVERLAYS:
        try:
            documents = manifests.rendered(KUBERNETES, overlay)
        except Skipped as reason:
            pytest.skip(str(reason))
        for pod in manifests.pods(documents):
            if pod.ours is not None:
                assert pod.ours["image"] == "registry.example/trefoil:0.1.0"
