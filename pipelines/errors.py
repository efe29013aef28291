"""The errors of the pipeline.

PipelineError
├── BadInput        the caller's input is wrong: the field, a machine-readable reason, a message
└── BundleRefused   the bundle cannot be served: the check that failed, and why
    └── ManifestMismatch   the files, code or libraries are not those the manifest names
"""

from __future__ import annotations


class PipelineError(Exception):
    pass


class BadInput(PipelineError):
    """`field` is a path such as `parts[2].data`; `reason` an UPPER_CASE name that scripts can
    match."""

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = reason
        self.message = message


class BundleRefused(PipelineError):
    """`check` is the step that failed: missing, names, kind, manifest, signature, files, format,
    hash, code, libraries, weights, config, golden (docs/bundle.md explains each)."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"bundle refused ({check}): {message}")
        self.check = check
        self.message = message


class ManifestMismatch(BundleRefused):
    pass
