"""DeepSanitizer; `method` reads in the order of its idea."""

from fl_defense.sanitizers.deep_sanitizer.method import DeepSanitizer

__all__ = ["DeepSanitizer"]
