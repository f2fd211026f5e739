"""Attribution: who taught the model what it did not know before?"""

from fl_defense.screens.attribution.method import Attribution

__all__ = ["Attribution"]
