"""What can go wrong inside telemetry.

TelemetryError
├── ReferenceRefused   reference/profile.json cannot be read or does not fit the features
├── BadFilter          a filter line with an error; names the term and the error
├── UnknownAlert       an id that names no alert, silence or annotation
├── TooMany            a limit on what people may add was reached
├── ExportRefused      a setting of OpenTelemetry that this server cannot fulfil
└── StoreBusy          the writer did not answer in time
"""

from __future__ import annotations


class TelemetryError(Exception):
    pass


class ReferenceRefused(TelemetryError):
    """The bundle's reference profile and the features the model sends disagree."""


class BadFilter(TelemetryError):
    """`term` is the part of the filter line with the error."""

    def __init__(self, term: str, message: str) -> None:
        super().__init__(f"{term!r}: {message}")
        self.term = term
        self.message = message


class UnknownAlert(TelemetryError):
    pass


class TooMany(TelemetryError):
    """The message names the quantity that is too large, the limit and the remedy."""


class ExportRefused(TelemetryError):
    """The message names the flag or variable, and the reason."""


class StoreBusy(TelemetryError):
    pass
