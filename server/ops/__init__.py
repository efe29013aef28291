"""Around a running server: the service manager, OpenTelemetry, alerts of its own."""
