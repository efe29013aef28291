"""What can go wrong inside telemetry.

TelemetryError
├── ReferenceRefused   reference/profile.json cannot be read or does not fit the features
├── BadFilter          a filter line that cannot be understood: which term, why
├── UnknownAlert       an id that names no alert, silence or annotation
├── TooMany            a limit of what people may add, reached
├── ExportRefused      OpenTelemetry is asked for something this server cannot do
└── StoreBusy          the writer did not answer in time
"""

from __future__ import annotations


class TelemetryError(Exception):
    pass


class ReferenceRefused(TelemetryError):
    """The bundle's reference profile and the features the model sends disagree."""


class BadFilter(TelemetryError):
    """`term` is the part of the filter line at fault."""

    def __init__(self, term: str, message: str) -> None:
        super().__init__(f"{term!r}: {message}")
        self.term = term
        self.message = message


class UnknownAlert(TelemetryError):
    pass


class TooMany(TelemetryError):
    """Says what there is too much of, the limit and the remedy."""


class ExportRefused(TelemetryError):
    """Says which flag or variable is at fault, and why."""


class StoreBusy(TelemetryError):
    pass
