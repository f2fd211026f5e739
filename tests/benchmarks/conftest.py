"""The scripts in benchmarks/ import one another by their bare names, as `python` lets them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
