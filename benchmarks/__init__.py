"""Measurements: `python -m benchmarks.NAME`; figures lie in `results`, `report` writes the page."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Where each measurement keeps its rows, one JSON file each."""
