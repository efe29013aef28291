"""OpenTelemetry: one `Instruments` a server. Nothing of the library is loaded until it is used."""
