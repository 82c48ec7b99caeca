"""Measurements against other tools, run by hand: `python -m benchmarks.NAME`."""
