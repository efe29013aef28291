"""gRPC streams of all servers on one asyncio loop in one thread. No Qt, no SQLite."""
