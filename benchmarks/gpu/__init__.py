"""The sections of benchmarks/cuda.py, each a program of its own with a limit on its time."""
