"""What is written down about a round: one JSON line each, flushed as it happens."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fl_defense.atomic_write import append_line
from fl_defense.model.deployed import DeployedModel
from fl_defense.rounds.repairer import RepairOutcome
from fl_defense.rounds.verdict import Word
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
    """What the server knows of one round; it has no test data, so no rates. Round 0: the start.

    Example:
        >>> json.loads(RoundRecord(round=3, num_replies=10).to_json())["num_replies"]
        10
    """

    round: int
    """Number of the round; 0 is the initial model."""
    num_replies: int = 0
    """Replies that were aggregated."""
    num_rejected: int = 0
    """Replies that the check dropped."""
    num_left_out: int = 0
    """Replies that the screens left out."""
    num_failures: int = 0
    """Clients that answered with an error, or not at all where the number asked is known."""
    sanitized: bool = False
    """The defense ran in this round."""
    accepted: bool = False
    """Its result passed the do-no-harm gate and was taken: it is harmless."""
    verdict: Word | None = None
    """Whether the repair worked, by a search in the model that would be released: "repaired",
    "nothing found", "not repaired", or "not verified" where more is left than in clean models, or
    the search is not calibrated for such a model; None: nothing was searched."""
    agreement: float | None = None
    """Share of surrogate images that aggregate and repaired model put into the same class, a mean
    over the classes, in [0, 1]; None: not measured."""
    screen_seconds: float = 0.0
    """Of all screens together."""
    train_seconds: float = 0.0
    """From sending the model out to having all replies."""
    sanitize_seconds: float = 0.0
    """Of the defense."""
    verify_seconds: float = 0.0
    """Of the searches for the verdict."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The defense's own numbers; `refused` or `failure` of a repair; `anomaly`, `suspected_class`
    and `alarm` of an inspection; `rejections` and `failures` of clients, each with `client`, its
    partition, and `reason`; `screens`, each with its `verdicts` (`client`, `weight`, `score`,
    `reason`, `suspected`) and what it found; `left_out`, each with `client` and `reason`;
    `kept_sent`: why nothing was aggregated; `sent_again`: the round whose model is sent in place of
    the one sent out. On a server that is no simulation, `node` stands for `client`."""

    def with_repair(self, outcome: RepairOutcome) -> "RoundRecord":
        """Return the record with what became of the aggregate."""
        return replace(
            self,
            sanitized=outcome.sanitized,
            accepted=outcome.accepted,
            verdict=outcome.verdict,
            agreement=outcome.agreement,
            sanitize_seconds=outcome.seconds,
            verify_seconds=outcome.verify_seconds,
            details={**self.details, **outcome.details},
        )

    def with_screens(self, screened: Screened, nodes: Sequence[int]) -> "RoundRecord":
        """Return the record with what the screens said of the replies of these nodes."""
        left_out = [
            {"node": node, "reason": said.reason}
            for node, said in zip(nodes, screened.verdicts, strict=True)
            if said.weight == 0
        ]
        details = {**self.details, "screens": [report.to_json() for report in screened.reports]}
        if left_out:
            details["left_out"] = left_out
        if screened.keep_sent is not None:
            details["kept_sent"] = screened.keep_sent
        if screened.send_again is not None:
            details["sent_again"] = screened.send_again.round
        kept = 0 if screened.keep_sent is not None else self.num_replies - len(left_out)
        return replace(
            self,
            num_replies=kept,
            num_left_out=len(left_out),
            screen_seconds=sum(report.seconds for report in screened.reports),
            details=details,
        )

    def figures(self) -> dict[str, int | float]:
        """Return what is added to Flower's own metrics of training, which it logs every round."""
        figures: dict[str, int | float] = {
            "defense-rejected": self.num_rejected,
            "defense-left-out": self.num_left_out,
            "defense-sanitized": int(self.sanitized),
            "defense-accepted": int(self.accepted),
            "defense-seconds": self.sanitize_seconds,
        }
        if self.verdict is not None:
            figures["defense-not-repaired"] = int(self.verdict == "not repaired")
            figures["defense-not-verified"] = int(self.verdict == "not verified")
        if self.agreement is not None:
            figures["defense-agreement"] = self.agreement
        return figures

    def to_json(self) -> str:
        """Return the record as one line of JSON, keys in the order of the fields."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class RoundOutcome:
    """What an observer is shown of a round, after the defense and before the next round.

    Example:
        >>> record = RoundRecord(round=1)
        >>> outcome = RoundOutcome(record=record, aggregate=None, released=None, sent=None)
        >>> outcome.record.round, outcome.rejections
        (1, [])
    """

    record: RoundRecord
    """What the strategy itself knows."""
    aggregate: DeployedModel | None
    """The aggregate as it would be deployed without a defense; None if nothing was aggregated."""
    released: DeployedModel | None
    """The model that would be released, as it is deployed; None if nothing was aggregated."""
    sent: DeployedModel | None
    """The model that clients are sent next; None if nothing was aggregated."""
    rejections: list[Rejection] = field(default_factory=list)
    """Each dropped reply with its node id and reason."""
    screens: Sequence[ScreenReport] = ()
    """What each screen said, with pictures of what was found."""
    failures: list[Rejection] = field(default_factory=list)
    """Each client that answered with an error or not in time."""
    limited: list[Rejection] = field(default_factory=list)
    """Each reply that counted for less than its client claims, with the reason."""


class Line(Protocol):
    """What is written as one line of a .jsonl file."""

    def to_json(self) -> str:
        """Return it as JSON without a line break."""


Read = TypeVar("Read")


def append_record(path: Path, record: Line) -> None:
    """Append one line to a .jsonl file and force it to disk: a crash loses no finished round."""
    append_line(path, record.to_json())


def read_records(path: Path) -> list[RoundRecord]:
    """Read a .jsonl file of records; a last line cut off by a crash is left out.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if any other line is not a record, with its number.
    """
    return [record for _, record in read_lines(path, lambda keys: RoundRecord(**keys))]


def read_lines(path: Path, read: Callable[[dict[str, Any]], Read]) -> list[tuple[str, Read]]:
    """Read each line of a .jsonl file of rounds; a last line cut off by a crash is left out.

    Args:
        path: the file.
        read: makes a round from a line's mapping; raises TypeError where keys do not fit.

    Returns:
        Each line's text, and what was made of it.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if any other line is not a round, with its number.
    """
    rounds: list[tuple[str, Read]] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rounds.append((line, read(_mapping(line))))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            if number == len(lines) and isinstance(error, json.JSONDecodeError):
                break
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}:{number}: not a round record ({reason})") from error
    return rounds


def _mapping(line: str) -> dict[str, Any]:
    content = json.loads(line, parse_constant=_no_number)
    if not isinstance(content, dict):
        raise TypeError(f"must be a mapping, got {type(content).__name__}")
    return content


def _no_number(name: str) -> float:
    raise TypeError(f"{name} is no number")
