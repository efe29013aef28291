"""What surrounds a running server: the service manager, OpenTelemetry, alerts about the server
itself."""
