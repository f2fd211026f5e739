"""DeepCleanse (Doan et al., ACSAC 2020); `method` reads in the order of the paper."""

from fl_defense.sanitizers.deep_cleanse.method import DeepCleanse

__all__ = ["DeepCleanse"]
