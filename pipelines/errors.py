"""What can go wrong inside the pipeline.

PipelineError
├── BadInput        the caller's part is at fault: which field, why (machine readable), in words
└── BundleRefused   the bundle cannot be served: which check, why
    └── StampMismatch   it is not the bundle (or the code) it claims to be
"""

from __future__ import annotations


class PipelineError(Exception):
    pass


class BadInput(PipelineError):
    """`field` is a path such as `parts[2].data`; `reason` an UPPER_CASE word scripts can match."""

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.reason = reason
        self.message = message


class BundleRefused(PipelineError):
    """`check` is the step that failed: missing, names, kind, manifest, signature, files, format,
    hash, code, libraries, weights, config, golden (docs/bundle.md says what each means)."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"bundle refused ({check}): {message}")
        self.check = check
        self.message = message


class StampMismatch(BundleRefused):
    pass
