"""What is written down about a round: one JSON line each, flushed as it happens."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.repairer import RepairOutcome
from fl_defense.screens.apply import Screened, ScreenReport


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A reply that was dropped before aggregation, or that never came."""

    node: int
    """Flower's node id, or the partition id where a simulation knows it."""
    reason: str
    """What was wrong with the reply."""


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round of a defended federation. Rates are fractions in [0, 1]; None: not measured.

    A server without test data leaves the rates empty; a simulation fills them in. Round 0 is the
    initial model.
    """

    round: int
    num_replies: int = 0
    """Replies that were aggregated."""
    num_rejected: int = 0
    """Replies that the check dropped."""
    num_left_out: int = 0
    """Replies that the screens left out."""
    num_failures: int = 0
    """Clients that answered with an error, or not at all where the number asked is known."""
    malicious: list[int] = field(default_factory=list)
    """Partitions that attacked in this round; known to simulations alone."""
    accuracy: float | None = None
    """Of the model that would be released, as it is deployed, on held-out images."""
    attack_success_rate: float | None = None
    robust_accuracy: float | None = None
    accuracy_unpurified: float | None = None
    """Of the same model without its purifier (model ASR, against system ASR); None: it has none."""
    attack_success_rate_unpurified: float | None = None
    robust_accuracy_unpurified: float | None = None
    accuracy_before: float | None = None
    """Of the aggregate, before the defense."""
    attack_success_rate_before: float | None = None
    robust_accuracy_before: float | None = None
    sanitized: bool = False
    """The defense ran in this round."""
    accepted: bool = False
    """Its result passed the do-no-harm gate and was taken."""
    agreement: float | None = None
    """Share of surrogate images that aggregate and repaired model put into the same class, a mean
    over the classes."""
    screen_seconds: float = 0.0
    """Of all screens together."""
    train_seconds: float = 0.0
    """From sending the model out to having all replies."""
    sanitize_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)
    """The defense's own numbers, its refusal or failure; each rejection and failure of a client."""

    def to_json(self) -> str:
        """Return the record as one line of JSON, keys in the order of the fields.

        The rates without the purifier are left out where there is no purifier.
        """
        line = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or not name.endswith("_unpurified")
        }
        return json.dumps(line, allow_nan=False)


@dataclass(kw_only=True)
class RoundDraft:
    """A RoundRecord while its round is going on; only what the strategy itself knows."""

    round: int
    num_replies: int = 0
    num_rejected: int = 0
    num_left_out: int = 0
    num_failures: int = 0
    sanitized: bool = False
    accepted: bool = False
    agreement: float | None = None
    screen_seconds: float = 0.0
    train_seconds: float = 0.0
    sanitize_seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def take_screens(self, screened: Screened, nodes: Sequence[int]) -> None:
        """Note what the screens said of the replies of these nodes."""
        left_out = [
            {"node": node, "reason": said.reason}
            for node, said in zip(nodes, screened.verdicts, strict=True)
            if said.weight == 0
        ]
        self.num_left_out = len(left_out)
        self.num_replies -= len(left_out)
        self.screen_seconds = sum(report.seconds for report in screened.reports)
        self.details["screens"] = [report.to_json() for report in screened.reports]
        if left_out:
            self.details["left_out"] = left_out
        if screened.keep_sent is not None:
            self.num_replies = 0
            self.details["kept_sent"] = screened.keep_sent

    def take(self, outcome: RepairOutcome) -> None:
        """Note what became of the aggregate."""
        self.sanitized, self.accepted = outcome.sanitized, outcome.accepted
        self.agreement, self.sanitize_seconds = outcome.agreement, outcome.seconds
        self.details.update(outcome.details)

    def finish(self) -> RoundRecord:
        """Return the record, whose rates are still empty."""
        return RoundRecord(**vars(self))


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What an observer is shown of a round, after the defense and before the next round."""

    record: RoundRecord
    """What the strategy itself knows; no rates, for it has no test data."""
    before: DeployedModel | None
    """The aggregate as it would be deployed without a defense; None if nothing was aggregated."""
    after: DeployedModel | None
    """The model that would be released, as it is deployed; None if nothing was aggregated."""
    rejections: list[Rejection] = field(default_factory=list)
    """Each dropped reply with its node id and reason."""
    screens: Sequence[ScreenReport] = ()
    """What each screen said, with pictures of what was found."""
    failures: list[Rejection] = field(default_factory=list)
    """Each client that answered with an error or not in time."""


def append_record(path: Path, record: RoundRecord) -> None:
    """Append one line to a .jsonl file and force it to disk: a crash loses no finished round."""
    with path.open("a", encoding="utf-8") as file:
        file.write(record.to_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> list[RoundRecord]:
    """Read a .jsonl file of records; a last line cut off by a crash is left out.

    Raises:
        ValueError: if any other line is not a record, with its number.
    """
    records: list[RoundRecord] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(RoundRecord(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number}: not a round record ({error})") from error
    return records
