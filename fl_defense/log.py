"""The one logger of the library."""

import logging

logger = logging.getLogger("flwr").getChild("fl_defense")
"""A child of Flower's logger prints in Flower's format, at Flower's level."""
