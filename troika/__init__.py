"""Troika: data, algorithm and compute pull together to train, judge and serve generative models."""

__version__ = "0.1.0"
