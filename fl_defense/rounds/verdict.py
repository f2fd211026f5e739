"""Did a repair work? The repaired model is inspected as the suspect was, on fresh scenes.

The do-no-harm gate says that a repair is harmless. Whether it has done anything, only a search for
what is left can tell, without data as everything here. It sees what the inspection sees: a trigger
that the inspection has no eye for is in neither answer (docs/methods/trigger-search.md).

Two bars divide the words. Above the upper one no clean model lies: it raises the alarm. Below the
lower one lie the clean models: only what is left below it is called repaired, or nothing. What lies
between is told as not verified, and so is every model of a kind that the bars are not made for.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fl_defense.inspections import Finding, Inspection
from fl_defense.log import logger
from fl_defense.model.spec import ModelSpec

Word = Literal["repaired", "nothing found", "not repaired", "not verified"]


@dataclass(frozen=True, kw_only=True)
class RepairVerdict:
    """What was found in a model before its repair, and what is left in the model that is released.

    Above the bar, or certain by what the inspection itself says, a finding counts.
    """

    found: Finding
    """In the suspect."""
    left: Finding
    """In the model that is released; the same if that is the suspect."""
    bar: float
    """Anomaly above which a model of this kind is taken for backdoored."""
    clear: float
    """Anomaly up to which a model of this kind is like clean ones; at most `bar`."""
    blind: str | None = None
    """Why finding nothing says nothing of a model of this kind, or None."""

    @property
    def word(self) -> Word:
        """The verdict; "not repaired" also of a repair that has put something there."""
        if exceeds(self.left, self.bar):
            return "not repaired"
        if self.doubt is not None:
            return "not verified"
        return "repaired" if exceeds(self.found, self.bar) else "nothing found"

    @property
    def doubt(self) -> str | None:
        """Why it says nothing that no more is left, or None."""
        if self.blind is not None:
            return self.blind
        if self.left.anomaly <= self.clear:
            return None
        return f"more is left than in clean models, which lie below {self.clear:g}"

    @property
    def reason(self) -> str:
        """One line: why nothing can be told, and the strongest trigger before and after."""
        before, after = describe(self.found), describe(self.left)
        figures = f"before: {before}; after: {after}; bar {self.bar:g}"
        return f"{self.doubt}; {figures}" if self.word == "not verified" else figures

    @property
    def details(self) -> dict[str, Any]:
        """The figures for a record, by the keys that docs/reference/records.md lists."""
        figures: dict[str, Any] = {"bar": self.bar, "clear": self.clear}
        for name, finding in (("found", self.found), ("left", self.left)):
            figures[f"{name}_kind"] = finding.kind
            figures[f"{name}_class"] = finding.suspected_class
            figures[f"{name}_anomaly"] = finding.anomaly
        if self.blind is not None:
            figures["not_calibrated"] = self.blind
        return figures


def fitting(inspection: Inspection | None, model: nn.Module, spec: ModelSpec) -> Inspection | None:
    """Return an inspection that is to verify repairs; None, and say so, if it takes no such model.

    A defense that repairs the model without it is not refused for that. Where no repair can be
    verified, that is told before anything is released.
    """
    if inspection is None:
        return None
    try:
        inspection.check(model, spec)
        if inspection.bar_for(model, spec) is not None:
            blind = inspection.blind_to(model, spec)
            if blind is not None:
                logger.warning("no repair will count as verified: %s", blind)
            return inspection
        reason = f"{type(inspection).__name__} has no bar"
    except ValueError as error:
        reason = str(error)
    logger.warning("repairs are not verified: %s; give another `verify`, or None", reason)
    return None


def exceeds(finding: Finding, bar: float) -> bool:
    """Tell whether a finding counts: it is certain, or its anomaly is above the bar."""
    return finding.is_certain or finding.anomaly > bar


def describe(finding: Finding) -> str:
    """Say in a few words what an inspection found strongest."""
    return f"{finding.kind} to class {finding.suspected_class}, anomaly {finding.anomaly:.2f}"


def judge(
    inspection: Inspection,
    spec: ModelSpec,
    suspect: nn.Module,
    released: nn.Module,
    *,
    seed: int,
    found: Finding | None = None,
) -> RepairVerdict:
    """Inspect a model before and after its repair.

    Args:
        inspection: how; both are inspected on the same scenes.
        spec: the models' structure.
        suspect: the model before the repair.
        released: the model after it, or the suspect itself if the repair was not taken.
        seed: of all that is drawn; another one than the repair's.
        found: in the suspect, if it has been inspected already.

    Raises:
        ValueError: if the inspection does not fit the model, or has no bar for its kind.
    """
    bar = inspection.bar_for(suspect, spec)
    if bar is None:
        raise ValueError(f"{type(inspection).__name__} has no bar for such a model; take another")
    found = found or inspection.inspect(suspect, spec, seed=seed)
    left = found if released is suspect else inspection.inspect(released, spec, seed=seed)
    clear, blind = inspection.clear_for(suspect, spec), inspection.blind_to(suspect, spec)
    if clear is None:
        clear = bar
    return RepairVerdict(found=found, left=left, bar=bar, clear=clear, blind=blind)
