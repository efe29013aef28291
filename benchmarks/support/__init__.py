"""Code that several benchmarks share: payloads, loads, other servers to compare with."""
