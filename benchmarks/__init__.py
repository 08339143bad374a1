"""Measurements, run by ``python -m benchmarks [name ...]``: every figure is a ratio to a peer in the same run."""
