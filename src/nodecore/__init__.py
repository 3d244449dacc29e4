"""Batched neural and mechanistic ODEs with exact gradients on the CPU."""

__version__ = "0.1.0"
