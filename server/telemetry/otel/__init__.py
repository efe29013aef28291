"""OpenTelemetry: one `Instruments` for each server. The library is loaded only when it is used."""
