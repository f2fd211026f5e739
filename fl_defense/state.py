"""What a method may carry from one round to the next."""

from collections.abc import Mapping
from typing import Any

State = Mapping[str, Any]
"""What a sanitizer carries from round to round (generators, optimisers); opaque to its caller."""
