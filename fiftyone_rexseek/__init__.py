"""Referring expressions in FiftyOne: benchmarks, models, operators and the official metrics."""

__version__ = "0.1.0"
