"""The sections of benchmarks/cuda.py, each a separate program with a time limit."""
