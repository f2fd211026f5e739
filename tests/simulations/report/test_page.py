"""The page's structure, read as text; test_in_browser.py opens it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imsave

from fl_defense.rounds.records import RoundRecord, append_record
from simulations.measurement.comparison import Comparison
from simulations.measurement.confusion import Confusion
from simulations.measurement.finished_runs import find_runs
from simulations.measurement.measured_round import MeasuredRound
from simulations.measurement.results_folder import CONFUSION, PICTURES
from simulations.report.figures import attack_windows, confusion, curves, side_by_side
from simulations.report.finding import finding
from simulations.report.page import write_report
from simulations.report.strips import strip
from simulations.scenario import ConfigError
from simulations.scenario.load import load_scenario

SCENARIO = """
name: small & quick
data: {name: digits}
clients: {count: 3}
attack: {name: badnets, malicious: [1]}
"""
RATES = {"accuracy": 0.9, "attack_success_rate": 0.1, "robust_accuracy": 0.8}
VOID = {"meta", "img", "br", "hr", "link", "input"}


def rounds_of() -> list[MeasuredRound]:
    verdicts = [
        {"client": 0, "weight": 1.0, "score": 0.1, "reason": ""},
        {"client": 1, "weight": 0.0, "score": 9.0, "reason": "stands out"},
        {"client": 2, "weight": 0.5, "score": 1.0, "reason": "a little"},
    ]
    details = {
        "screens": [{"screen": "Norms", "verdicts": verdicts}],
        "left_out": [{"client": 1, "reason": "stands out"}],
    }
    before = RATES | {"attack_success_rate": 0.9}
    return [
        MeasuredRound(record=RoundRecord(round=0), rates={"released": RATES}),
        MeasuredRound(record=RoundRecord(round=1), asked=[0, 1], rates={"released": RATES}),
        MeasuredRound(
            record=RoundRecord(
                round=2, sanitized=True, accepted=True, sanitize_seconds=2.0, details=details
            ),
            asked=[0, 1, 2],
            malicious=[1],
            rates={"aggregate": before, "released": RATES, "sent": before},
        ),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", 0)


def write_run(folder: Path, seed: int, *settings: str) -> Path:
    folder.mkdir(parents=True)
    given = folder / "given.yaml"
    given.write_text(SCENARIO.replace(" & quick", ""))
    scenario = load_scenario(given, [f"seed={seed}", *settings])
    (folder / "scenario.yaml").write_text(scenario.to_yaml())
    for each in rounds_of():
        append_record(folder / "rounds.jsonl", each)
    summary = {
        "scenario": "small", "seed": seed, "malicious": [1], "device": "cpu <1 thread>",
        "versions": {"torch": "2.9"}, "last_three_rounds": {"released": RATES},
        "screens": {"Norms": {"left_out_malicious": 1, "kept_malicious": 0,
                              "left_out_honest": 0, "kept_honest": 2}},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / PICTURES).mkdir()
    imsave(
        folder / PICTURES / "round_0002_Norms-0-patch.png",
        torch.rand(8, 8, 3).numpy(),
        metadata={"Title": "0 patch 1/3, class 0"},
    )
    before = {"clean": [[9, 1], [0, 10]], "triggered": [[10, 0], [10, 0]]}
    after = {"clean": [[9, 1], [0, 10]], "triggered": [[10, 0], [1, 9]]}
    (folder / CONFUSION).write_text(Confusion(round=2, before=before, after=after).to_json())
    return folder


class Page(HTMLParser):
    """Counts tags, checks that they close, and gathers what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def count(self, tag: str, **wanted: str) -> int:
        return sum(
            name == tag and all(attrs.get(key) == value for key, value in wanted.items())
            for name, attrs in self.tags
        )


def test_a_page_is_whole_and_loads_nothing(folder: Path) -> None:
    out = folder.parent / "report.html"
    assert write_report([folder], out) == 1
    text = out.read_text()
    page = Page(text)
    assert page.open == []
    assert page.count("article") == 1
    for tag, attrs in page.tags:
        assert tag != "link"
        assert (attrs.get("src") or "data:").startswith("data:"), tag
    assert page.count("meta", name="viewport") == 1
    assert "cpu &lt;1 thread&gt;" in text
    assert "prefers-color-scheme: dark" in text


def test_a_page_shows_every_part_of_a_run(folder: Path) -> None:
    out = folder.parent / "report.html"
    write_report([folder], out)
    text = out.read_text()
    page = Page(text)
    assert re.search(r'<p class="finding">Over the last three rounds the attack succeeds on', text)
    assert page.count("div", id="curves-0") == 1
    assert page.count("div", id="seconds-0") == 1
    # A true trigger and a found pattern.
    assert page.count("img") == 2
    assert page.count("img", alt="round 2: patch 1/3, class 0") == 1
    title = "round 2, client 1 (malicious): left out"
    assert page.count("span", title=title) == 1
    assert page.count("details") == 1
    assert page.count("div", id="confusion-0") == 1
    assert page.count("figure", **{"class": "true"}) == 1


def test_several_runs_stand_side_by_side_under_a_table(folder: Path) -> None:
    write_run(folder.parent / "other", 1)
    out = folder.parent / "report.html"
    assert write_report([folder.parent], out) == 2
    page = Page(out.read_text())
    assert page.count("article") == 2
    assert page.count("div", id="curves-1") == 1
    assert page.count("script") >= 3
    assert "± 95 % interval" in out.read_text()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished run"):
        write_report([tmp_path], tmp_path / "report.html")


def test_cells_say_what_was_done_with_whom() -> None:
    found = strip(rounds_of(), 3)
    assert found.rounds == [1, 2]
    verdicts = [[cell.verdict for cell in cells] for _, cells in found.rows]
    assert verdicts == [["kept", "kept"], ["kept", "left-out"], ["absent", "suspected"]]
    assert [cell.malicious for cell in found.rows[1][1]] == [False, True]


def test_of_many_clients_the_notable_ones_are_shown() -> None:
    found = strip(rounds_of(), 1000)
    assert [client for client, _ in found.rows] == [1, 2]
    assert found.num_hidden == 998


def test_curves_shade_the_attack_and_leave_out_what_repeats() -> None:
    figure = curves(rounds_of())
    names = [trace.name for trace in figure.data]
    assert "ASR, before repair" in names
    assert "repaired" in names
    assert "accuracy, sent to clients" not in names
    assert attack_windows(rounds_of()) == [(2, 2)]
    assert len(figure.layout.shapes) == 1


def test_rounds_that_took_no_reply_are_marked() -> None:
    kept = {"kept_sent": "2 of 4 replies stand out"}
    rounds = [
        *rounds_of(),
        MeasuredRound(record=RoundRecord(round=3, details=kept), rates={"released": RATES}),
        MeasuredRound(
            record=RoundRecord(round=4, details={**kept, "sent_again": 2}),
            rates={"released": RATES},
        ),
    ]
    marked = {trace.name: list(trace.x) for trace in curves(rounds).data}
    assert marked["model stays"] == [3]
    assert marked["an earlier model sent again"] == [4]


def test_the_finding_states_rates_and_verdicts() -> None:
    summary: dict[str, Any] = {
        "malicious": [1],
        "last_three_rounds": {
            "aggregate": RATES | {"attack_success_rate": 0.9}, "released": RATES,
        },
        "screens": {},
    }  # fmt: skip
    assert finding(summary) == (
        "Over the last three rounds the attack succeeds on 10.0% of triggered images after the "
        "repair and 90.0% before it; accuracy is 90.0%, robust accuracy 80.0%."
    )
    assert finding(summary | {"last_three_rounds": {}}).startswith("No model was measured")


def test_of_many_pictures_the_latest_are_seen_at_once(folder: Path) -> None:
    for number in range(12):
        imsave(folder / PICTURES / f"round_0001_Norms-{number}-x.png", torch.rand(8, 8, 3).numpy())
    out = folder.parent / "report.html"
    write_report([folder], out)
    text = out.read_text()
    assert "5 more of earlier rounds" in text
    captions = re.findall(r'class="found"><img [^>]*alt="([^"]*)"', text)
    assert captions[0] == "round 2: patch 1/3, class 0"
    assert captions[1] == "round 1: round 0001 Norms-0-x"
    assert len(captions) == 13


def test_answers_by_class_are_shares_of_a_class() -> None:
    found = Confusion(
        round=1, before={"clean": [[3, 1], [0, 0]]}, after={"clean": [[4, 0], [0, 0]]}
    )
    before, after = confusion(found).data
    assert [*map(list, before.z)] == [[0.75, 0.25], [0.0, 0.0]]
    assert [*map(list, after.z)] == [[1.0, 0.0], [0.0, 0.0]]


def test_what_no_repair_changed_is_shown_once() -> None:
    rates = {"aggregate": RATES, "released": RATES}
    calm = [replace(each, rates=rates) for each in rounds_of()]
    names = [trace.name for trace in curves(calm, repairs=False).data]
    assert names == ["accuracy", "ASR", "robust accuracy"]
    same = {"clean": [[3, 1], [0, 4]]}
    figure = confusion(Confusion(round=1, before=same, after=same))
    assert [title.text for title in figure.layout.annotations] == ["clean images"]


def test_a_control_run_is_not_called_repaired() -> None:
    assert "repaired" not in [trace.name for trace in curves(rounds_of(), repairs=False).data]


def test_groups_stand_beside_each_other_with_intervals(tmp_path: Path) -> None:
    for seed, defense in ((0, "none"), (1, "none"), (0, "dhbe")):
        write_run(tmp_path / f"{defense}-{seed}", seed, f"defense.name={defense}")
    figure = side_by_side(Comparison(runs=find_runs([tmp_path])))
    accuracy = figure.data[0]
    assert sorted(accuracy.y) == ["defense.name=dhbe", "defense.name=none"]
    assert list(accuracy.error_x.array) == [0, 0]
    assert list(accuracy.x) == [0.9, 0.9]
