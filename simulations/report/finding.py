"""What a run found, in one sentence for the top of a report."""

from collections.abc import Mapping
from typing import Any

from simulations.measurement.measured_round import rate_of


def finding(summary: Mapping[str, Any]) -> str:
    """Return the sentence; it states rates and judges nothing.

    >>> finding({"malicious": [], "last_three_rounds": {"released": {"accuracy": 0.91}}})
    'Nobody attacked: over the last three rounds accuracy is 91.0%.'
    """
    means = summary["last_three_rounds"]
    accuracy = rate_of(means, "released", "accuracy")
    success = rate_of(means, "released", "attack_success_rate")
    if accuracy is None:
        return "No model was measured in the last three rounds."
    if not summary["malicious"]:
        reach = f", and the trigger works on {success:.1%} of images" if success is not None else ""
        return f"Nobody attacked: over the last three rounds accuracy is {accuracy:.1%}{reach}."
    before = rate_of(means, "aggregate", "attack_success_rate")
    robust = rate_of(means, "released", "robust_accuracy")
    sentence = (
        f"Over the last three rounds the attack succeeds on {success:.1%} of triggered images"
    )
    if before is not None and before != success:
        sentence += f" after the repair and {before:.1%} before it"
    sentence += f"; accuracy is {accuracy:.1%}, robust accuracy {robust:.1%}"
    return sentence + _screens(summary) + "."


def _screens(summary: Mapping[str, Any]) -> str:
    parts = []
    for name, count in summary.get("screens", {}).items():
        malicious = count["left_out_malicious"] + count["kept_malicious"]
        honest = count["left_out_honest"] + count["kept_honest"]
        parts.append(
            f"; {name} left out {count['left_out_malicious']} of {malicious} malicious replies "
            f"and {count['left_out_honest']} of {honest} honest ones"
        )
    return "".join(parts)
