"""The console's memory on disk: one writer thread, read-only readers. No Qt, no gRPC."""
