"""The contents of a bundle, as JSON-ready facts and as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipelines.bundle.bundle import process_mismatch
from pipelines.bundle.contents import Contents
from pipelines.bundle.stamp import PARTS, part_of

if TYPE_CHECKING:  # golden imports torch, which inspecting does not need
    from pipelines.bundle.golden import GoldenResult


def facts(contents: Contents) -> dict[str, Any]:
    """The facts, JSON-ready. `refused_here` is empty when this process may serve the bundle."""
    manifest, stamp = contents.manifest, contents.manifest.stamp()
    mismatch = process_mismatch(manifest)
    sizes = dict.fromkeys(PARTS, 0)
    for leaf in manifest.files:
        sizes[part_of(leaf.path) or ""] += leaf.size
    cases = contents.json("golden/golden.json").get("cases", [])
    return {
        "path": str(contents.path),
        "name": stamp.name,
        "stamp": stamp.hex,
        "created_at": manifest.created_at,
        "human": dict(manifest.human),
        "parts": dict(stamp.parts),
        "part_bytes": sizes,
        "files": {
            leaf.path: {"bytes": leaf.size, "sha256": leaf.sha256} for leaf in manifest.files
        },
        "libraries": dict(manifest.libraries),
        "labels": contents.json("labels.json").get("labels", []),
        "golden": [case.get("mix", case["id"]) for case in cases],
        "training": contents.json("training.json"),
        "refused_here": str(mismatch.message) if mismatch else "",
    }


def as_text(facts: dict[str, Any]) -> str:
    lines = [facts["name"], f"stamp      {facts['stamp']}"]
    if facts["created_at"]:
        lines.append(f"made       {facts['created_at']}")
    lines += [f"{key:<10} {value}" for key, value in facts["human"].items()]
    lines += ["", "parts"]
    for part, digest in facts["parts"].items():
        lines.append(f"  {part:<14}{digest[:12]}  {_size(facts['part_bytes'][part])}".rstrip())
    lines += ["", "labels     " + ", ".join(str(label["name"]) for label in facts["labels"])]
    lines.append("golden     " + ", ".join(facts["golden"]))
    lines.append(
        "libraries  " + ", ".join(f"{name} {v}" for name, v in sorted(facts["libraries"].items()))
    )
    lines += ["", "training"]
    lines += [f"  {key}: {_brief(value)}" for key, value in facts["training"].items()]
    reason = facts["refused_here"]
    lines += [
        "",
        f"refused here: {reason}" if reason else "serves here: code and libraries match",
    ]
    return "\n".join(lines)


def golden_line(result: GoldenResult) -> str:
    mark = "ok  " if result.ok else "FAIL"
    return (
        f"golden {mark} {result.case:<24} difference {result.worst_difference:.1e} "
        f"(tolerance {result.tolerance:g})  {result.elapsed_ms:.1f} ms"
    )


def _size(count: int) -> str:
    if count == 0:
        return ""
    if count < 10_000:
        return f"{count} bytes"
    return f"{count / 1e6:.2f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
