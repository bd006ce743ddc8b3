"""The page says what the files say, names a rival that wins, and never shows a number that was not measured."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traceward.errors import RunError
from traceward.report.build import build_report
from traceward.report.curves import health_curves, stage_curves
from traceward.report.figures import Bar, Kind, Series, bar_figure, line_figure, spread, thin
from traceward.report.tables import Section

RESULTS: dict[str, Any] = {
    "schema": 1,
    "run": "demo",
    "seed": 0,
    "label_source": "demonstrations",
    "uses_final_answers": {"reward": "no", "consensus": "yes"},
    "data": {"task": "stories", "demonstrations": 100, "test_problems": 300},
    "reward": {
        "head": "log-ratio",
        "granularity": "interval",
        "interval": "step",
        "objective": "gail",
        "updates": 40,
        "form_auroc": 0.52,
    },
    "rerank": {"n": 8, "expected_random": 0.271, "majority": 0.363, "reward": 0.613, "oracle": 0.847},
    "rerank_intervals": {"reward": [0.55, 0.67], "majority": [0.31, 0.42]},
    "rerank_curve": {"n": [1, 2, 4], "majority": [0.27, 0.27, 0.33], "reward": [0.27, None, 0.52]},
    "localise_hit_at_1": {"chance": 0.31, "sft_logprob": 0.62, "reward": 0.71},
    "localise_hit_at_1_intervals": {"reward": [0.67, 0.75]},
    "localise": {"traces": 512, "hit_within_1": {"reward": 0.92}, "map": {"reward": 0.83}},
    "policy_pass_at_1": {"base": 0.27, "sft": 0.41, "adversarial": 0.54, "outcome": 0.7},
    "policy_pass_at_1_intervals": {"adversarial": [0.5, 0.58]},
    "policy_greedy": {"sft": 0.45, "adversarial": 0.57},
    "policy_greedy_intervals": {},
    "policy_curves": {"adversarial": {"step": [0, 10], "pass_at_1": [0.41, 0.54], "greedy": None}},
    "variants": [{"name": "scalar · token", "head": "scalar", "granularity": "dense", "rerank": 0.47, "auroc": 0.77}],
    "calibration": {
        "auroc": 0.88,
        "auroc_low": 0.86,
        "auroc_high": 0.9,
        "length_correlation": -0.18,
        "probabilities": {
            "trace": {
                "ece": 0.0312,
                "brier": 0.2,
                "n": 2400,
                "reliability": [
                    {"low": 0.0, "high": 0.1, "n": 1800, "probability": 0.05, "share": 0.08},
                    {"low": 0.5, "high": 0.6, "n": 600, "probability": 0.55, "share": 0.52},
                ],
            }
        },
    },
    "discriminator": {"auroc": 0.93, "length_eos_control": 0.71, "pairs": 256},
    "sft": {"loss_first": 1.2, "loss_last": 0.4},
    "seconds": {"sft": 31.2, "total": 711.5},
}
TRACE: dict[str, Any] = {
    "id": "a",
    "question": "Ann has <b>3</b> pens & Ben?",
    "steps": ["Ben has 3 + 2 = 5 pens.", "Answer: 5"],
    "step_scores": [0.4, -2.5],
    "tokens": [["Ben", 0.1], [" has", None]],
    "predicted": 1,
    "first_error": 0,
    "correct": False,
    "exported": -3.21,
}


def write_run(folder: Path, results: object = None, traces: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(RESULTS if results is None else results))
    rows = [{"stage": "warm-up", "step": step, "loss": 1 / (1 + step)} for step in range(5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in traces or [TRACE]))
    (folder / "manifest.json").write_text(json.dumps({"command": "traceward demo", "version": "0.1.0"}))
    return folder


def page_of(folder: Path) -> str:
    return build_report([folder]).read_text(encoding="utf-8")


def words(html: str) -> str:
    """What a reader sees: the text outside of styles and of the raw results at the end."""
    body = re.sub(r"<style.*?</style>|<pre>.*?</pre>", "", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def changed(**parts: object) -> dict[str, Any]:
    return copy.deepcopy(RESULTS) | parts


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_asks_nobody(tmp_path: Path) -> None:
    html = page_of(write_run(tmp_path / "run"))
    tags = Tags(html)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert all(link[1:] in tags.ids for link in tags.links)
    assert not re.search(r"https?:|@import|<script|<link|url\((?!#)", html)


def test_page_holds_the_numbers_with_their_intervals(tmp_path: Path) -> None:
    text = words(page_of(write_run(tmp_path / "run")))
    for expected in ("61.3 55–67", "71.0 67–75", "54.0 50–58", "random pick gets 27%", "Label source demonstrations"):
        assert expected in text
    assert "Final answers used by the consensus yes" in text
    assert "512 traces with a wrong step" in text


@pytest.mark.parametrize("key", sorted(RESULTS))
@pytest.mark.parametrize("empty", ["absent", None])
def test_any_part_may_be_missing(tmp_path: Path, key: str, empty: str | None) -> None:
    results = changed(**{key: None})
    if empty:
        del results[key]
    assert "not measured" in words(page_of(write_run(tmp_path / "run", results)))


def test_any_number_may_be_null(tmp_path: Path) -> None:
    hollow = {
        key: dict.fromkeys(value) if isinstance(value, dict) and key not in ("data", "policy_curves") else value
        for key, value in RESULTS.items()
        if key != "variants"
    }
    trace = TRACE | {"step_scores": None, "predicted": None, "first_error": None, "correct": None, "exported": None}
    text = words(page_of(write_run(tmp_path / "run", hollow, [trace])))
    assert "None of the three claims was measured" in text
    assert "None of" in text
    assert not re.search(r"\bnan\b|\bNone\b(?! of)", text)


def test_figures_without_numbers_are_left_out_and_one_point_is_enough(tmp_path: Path) -> None:
    parts = {
        "rerank_curve": {"n": [1, 2], "reward": [None, None]},
        "localise_hit_at_1": {"chance": 0.3},
        "policy_curves": {"sft": {"step": [0], "pass_at_1": [0.4]}},
        "calibration": {"probabilities": {"trace": {"ece": None, "reliability": []}}},
    }
    html = page_of(write_run(tmp_path / "run", changed(**parts)))
    assert [alt for alt in re.findall('aria-label="([^"]*)"', html) if "Loss" not in alt] == [
        "pass@1, sampled against steps"
    ]


def test_reliability_is_drawn_where_probabilities_were_measured(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run"))
    assert "ECE, probability that an answer is right" in text
    assert "0.031" in text
    assert "2400 test traces" in text
    assert "ECE, probability that a step" not in text
    assert "Share that is right, against the probability that the reward states" in text
    bare = changed(calibration={"auroc": 0.88, "probabilities": {}})
    other = words(page_of(write_run(tmp_path / "other", bare)))
    assert "ECE" not in other
    assert "Reliability" not in other


def test_a_run_with_metrics_only_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("results.json", "examples.jsonl", "manifest.json"):
        (run / name).unlink()
    assert "Warm-up of the reward" in words(page_of(run))


def best_labels(folder: Path, table: str) -> list[str]:
    numbers = json.loads((folder / "report.json").read_text())["runs"][0]["tables"][table]
    return [row["method"]["label"] for row in numbers["rows"] if row["cells"][0]["best"]]


def test_a_rival_that_wins_is_shown_as_winning(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changed(rerank=RESULTS["rerank"] | {"majority": 0.68, "reward": 0.56}))
    html = page_of(run)
    assert best_labels(run, "rerank") == ["Majority vote"]
    assert '<td class="num best">68.0</td>' in re.sub(r">\s+|\s+<", lambda m: m[0].strip(), html)
    assert "Highest: Majority vote , 68.0%; next: Reward, 56.0%." in words(html)
    assert "Majority vote 68% best rival, ahead" in words(html)
    assert "where a random pick gets 27% and Majority vote 68%; names" in words(html)


def test_the_oracle_never_wins_and_told_answers_do(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    text = words(page_of(run))
    assert best_labels(run, "rerank") == ["Reward"]
    assert best_labels(run, "policy") == ["Outcome RL"]
    assert "Outcome RL (told the right answers), 70.0%" in text
    assert "SFT 41% best rival, behind" in text  # on top, rivals are those that learned from the same data


def test_equal_numbers_win_together(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changed(rerank={"majority": 0.5, "reward": 0.5, "shortest": 0.4}))
    build_report([run])
    assert best_labels(run, "rerank") == ["Reward", "Majority vote"]


def test_a_method_only_the_file_knows_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", changed(rerank={"reward": 0.5, "reward_minimum": 0.55}))
    assert "Highest: reward minimum" in words(page_of(run)).replace(" ,", ",")


def test_traces_mark_the_predicted_and_the_true_step(tmp_path: Path) -> None:
    html = page_of(write_run(tmp_path / "run"))
    steps = [words(step) for step in re.findall(r"<li class=\"(?:low|high)\".*?</li>", html, flags=re.DOTALL)]
    assert "true" in steps[0]
    assert "predicted" not in steps[0]
    assert "predicted" in steps[1]
    assert "+0.40" in steps[0]
    assert "−2.50" in steps[1]
    assert "Missed: wrong from line 1, the reward points at line 2." in words(html)
    found = words(page_of(write_run(tmp_path / "hit", traces=[TRACE | {"predicted": 0}])))
    assert "Found: line 1." in found


def test_text_of_the_data_is_never_markup(tmp_path: Path) -> None:
    curve = {"n": [1, 2], "<i>$x$": [0.1, 0.2]}
    html = page_of(write_run(tmp_path / "run", changed(run="<script>x</script>", rerank_curve=curve)))
    assert "<script" not in html
    assert "<b>3</b>" not in html
    assert "Ann has &lt;b&gt;3&lt;/b&gt; pens &amp; Ben?" in html
    assert "&lt;i&gt;$x$" in html  # a dollar sign is no mathematics


def test_several_runs_are_compared_then_told_one_by_one(tmp_path: Path) -> None:
    first = write_run(tmp_path / "one")
    second = write_run(tmp_path / "two", changed(run="second", rerank={"n": 8, "reward": 0.7}))
    page = build_report([first, second], tmp_path / "both.html")
    text = words(page.read_text())
    assert page == tmp_path / "both.html"
    assert not (first / "report.html").exists()
    assert "2 runs compared" in text
    assert text.index("second demonstrations 70.0") < text.index("What was learned from")  # higher first, on top
    assert text.count("What was learned from") == 2
    assert [run["run"] for run in json.loads((tmp_path / "both.json").read_text())["runs"]] == ["demo", "second"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("results.json", '{"rerank": {"reward": 0.', r"results\.json must hold whole JSON.*delete it and evaluate"),
        ("results.json", '{"rerank": {"reward": NaN}}', r"results\.json must hold .* finite"),
        ("results.json", '{"rerank": {"reward": 1e999}}', r"results\.json must hold .* finite"),
        ("results.json", "[1]", r"results\.json must hold a JSON object"),
        ("results.json", '{"schema": 2}', r"schema must be 1: got 2"),
        ("results.json", '{"rerank": {"reward": 61.3}}', r"rerank: reward must lie between 0 and 1: got 61\.3"),
        ("results.json", '{"rerank": {"reward": "0.6"}}', r"rerank: reward must be a number"),
        ("results.json", '{"rerank": [0.6]}', r"rerank must be an object"),
        ("results.json", '{"rerank": {"reward": 0.6}, "rerank_intervals": {"reward": [0.7, 0.5]}}', r"\[low, high\]"),
        ("results.json", '{"alarms": ["odd"]}', r"alarms must hold stage, step, alarm and message: got 'odd'"),
        ("results.json", '{"rerank_curve": {"n": [1, 2], "reward": [0.5]}}', r"rerank_curve: reward must hold 2"),
        ("results.json", '{"variants": [3]}', r"variants: 1 must be an object"),
        ("metrics.jsonl", '{"step": 1}\n{"ste}\n', r"metrics\.jsonl:2 must hold whole JSON.*delete that line"),
        ("examples.jsonl", '{"steps": ["a"], "step_scores": [1, 2]}\n', r"examples\.jsonl:1: step_scores must hold 1"),
        ("examples.jsonl", '{"steps": ["a"], "predicted": 1}\n', r"examples\.jsonl:1: predicted must be a step"),
        ("examples.jsonl", '{"steps": ["a"], "tokens": ["a"]}\n', r"examples\.jsonl:1: tokens must be pairs"),
        ("manifest.json", "{", r"manifest\.json must hold whole JSON"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_written(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "report.html").write_text("before")
    before = sorted(path.name for path in run.iterdir())
    (run / name).write_text(text)
    with pytest.raises(RunError, match=complaint):
        build_report([run])
    assert (run / "report.html").read_text() == "before"
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_directory_without_run_files_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="must hold results"):
        build_report([tmp_path])
    with pytest.raises(RunError, match="at least one run"):
        build_report([])


def test_a_last_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as sink:
        sink.write('{"stage": "sft", "step": 1, "lo')
    assert "Fine-tuning" not in words(page_of(run))


def test_leaves_only_page_and_numbers_behind(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = {path.name for path in run.iterdir()}
    page_of(run)
    assert {path.name for path in run.iterdir()} - before == {"report.html", "report.json"}


def test_needs_no_torch() -> None:
    code = "import sys, traceward.report.build; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def coordinates(svg: str, needle: str) -> list[tuple[float, float]]:
    """Corner points of the first path whose style holds `needle`."""
    paths = ElementTree.fromstring(svg).iter("path")
    found = next(path for path in paths if needle in path.get("style", "") and path.get("d", "").startswith("M"))
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", found.get("d", ""))]


def test_bars_are_as_long_as_their_numbers_and_chance_stands_where_it_is() -> None:
    bars = [Bar("ours", 0.8, Kind.OURS, (0.7, 0.9)), Bar("other", 0.2)]
    svg = bar_figure(bars, alt="a", chance=0.4)
    ours = [x for x, _ in coordinates(svg, "fill: var(--ours")]
    other = [x for x, _ in coordinates(svg, "fill: var(--faint")]
    start, unit = min(ours), (max(ours) - min(ours)) / 0.8
    assert max(other) - min(other) == pytest.approx(0.2 * unit, abs=0.01)
    chance = [x for x, _ in coordinates(svg, "stroke-dasharray")]
    assert chance == pytest.approx([start + 0.4 * unit] * 2, abs=0.01)
    whisker = [x for x, _ in coordinates(svg, "stroke: var(--ink")]
    assert whisker == pytest.approx([start + 0.7 * unit, start + 0.9 * unit], abs=0.01)


def test_lines_are_named_and_their_interval_is_drawn() -> None:
    series = [
        Series("Reward", [1, 2, 4], [0.2, None, 0.6], Kind.OURS, (0.5, 0.7)),
        Series("Gone", [1, 2], [None, None]),
    ]
    svg = line_figure(series, alt='say "a"', x_label="n", doubling=True, levels=[("SFT", 0.4)])
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert {"Reward", "SFT", "1", "2", "4"} <= set(texts)
    assert "Gone" not in texts
    (_, low), (_, high) = coordinates(svg, "stroke-opacity: 0.28")
    line = [y for _, y in coordinates(svg, "stroke-dasharray")]  # the level at 0.4
    assert (line[0] - low) / (line[0] - high) == pytest.approx((0.5 - 0.4) / (0.7 - 0.4), abs=0.01)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread_keeps_order_room_and_bounds(values: list[float]) -> None:
    places = spread(values, gap=5, low=0, high=100)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    ranked = [places[index] for index in sorted(range(len(values)), key=lambda index: values[index])]
    assert all(after - before >= 5 - 1e-6 for before, after in pairwise(ranked))


def test_spread_leaves_alone_what_has_room() -> None:
    assert spread([50, 10, 30], gap=5, low=0, high=100) == [50, 10, 30]


@given(st.lists(st.floats(-1e3, 1e3), max_size=300), st.integers(1, 50))
def test_thin_keeps_all_points_or_their_means(values: list[float], limit: int) -> None:
    xs, ys = thin([float(place) for place in range(len(values))], values, limit)
    assert len(xs) == len(ys) == min(limit, len(values))
    if len(values) <= limit:
        assert ys == pytest.approx(values)
    elif len(values) % limit == 0:
        assert sum(ys) / len(ys) == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_policy_stages_share_panels_and_others_stand_alone() -> None:
    rows = [{"stage": stage, "step": 1, "kl": 0.1} for stage in ("sft", "adversarial", "majority_consensus")]
    rows += [{"stage": "adversarial", "step": 2, "logit_expert": 1.0, "logit_rollout": -1.0, "odd": 3, "note": "x"}]
    curves = dict(stage_curves(rows))
    assert list(curves) == ["Fine-tuning on the demonstrations", "Training the policy"]
    panels = dict(curves["Training the policy"])
    assert list(panels) == ["Logit of expert and rollout", "odd"]
    ((title, svg),) = health_curves(rows, Section("", {}))
    assert title == "KL to the start policy, nats per token"
    assert "Adversarial" in svg
    assert "Majority consensus" in svg


HEALTH = [
    {"stage": "adversarial", "step": step, "accuracy": 0.9, "updates": 1, "reward": 0.5, "kl": 0.01, "entropy": 0.2,
     "completion_length": 30, "form_auroc": 0.5, "reward_length_correlation": 0.1}
    for step in (1, 2)
]  # fmt: skip


def test_the_band_is_drawn_behind_the_accuracy_alone() -> None:
    band = {"accuracy_low": 0.65, "accuracy_high": 0.85}
    with_band, without, off = (
        dict(health_curves(HEALTH, Section("", values)))
        for values in (band, {}, {"accuracy_low": 0, "accuracy_high": 1})
    )
    assert list(with_band) == list(without)
    assert len(with_band) == 8
    assert [name for name in with_band if with_band[name] != without[name]] == ["Discriminator accuracy"]
    assert "opacity: 0.12" in with_band["Discriminator accuracy"]
    assert off == without


@pytest.mark.parametrize("told", [None, [], [{"stage": "warm-up", "step": 9, "alarm": "odd-one", "message": "a < b"}]])
def test_alarms_are_told_or_that_there_were_none(tmp_path: Path, told: list[dict[str, Any]] | None) -> None:
    run = write_run(tmp_path / "run", changed(alarms=told))
    text = words(page_of(run)).split("Health of the training")[1].split("Learning curves")[0].strip()
    if told is None:
        assert text == "not measured"
    elif not told:
        assert text == "Alarms: none ."
    else:
        assert "odd-one Warm-up of the reward 9 a &lt; b" in text
        numbers = json.loads((run / "report.json").read_text(encoding="utf-8"))["runs"][0]
        assert numbers["results"]["alarms"] == told


def test_the_parts_of_a_step_stand_beside_each_other_and_are_no_curve(tmp_path: Path) -> None:
    rows = [
        {"stage": stage, "step": step, "loss": 1.0, "seconds_rollout": seconds, "seconds_policy": 1.0}
        for stage, times in (("adversarial", (9.0, 2.0, 4.0)), ("outcome", (7.0,)))
        for step, seconds in enumerate(times, start=1)
    ]
    write_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = words(page_of(tmp_path))
    assert "rollout, s policy, s step, s Adversarial 3.00 1.00 4.00 Outcome RL 7.00 1.00 8.00" in text
    assert "seconds" not in " ".join(name for _, panels in stage_curves(rows) for name, _ in panels)
    numbers = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["runs"][0]
    assert numbers["times"]["Adversarial"] == {"rollout": 3.0, "policy": 1.0}
