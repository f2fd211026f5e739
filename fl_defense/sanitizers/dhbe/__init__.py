"""DHBE (Yan et al., AsiaCCS 2023); `method` reads in the order of the paper."""

from fl_defense.sanitizers.dhbe.method import DHBE

__all__ = ["DHBE"]
