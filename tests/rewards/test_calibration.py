"""Probabilities beside scores: fitted on validation, saved with the reward, and read back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from traceward.data.formats import EncodedTrace
from traceward.errors import DataError, RewardFileError
from traceward.evaluation.statistics import expected_calibration_error
from traceward.records import CalibrationMethod, Head
from traceward.rewards.calibration import Calibration, ProbabilityMap, choose_method, fit_map, out_of_fold
from traceward.rewards.files import save_calibration
from traceward.rewards.model import RewardModel

MakeReward = Callable[..., RewardModel]
TEMPERATURE, ISOTONIC = CalibrationMethod


def world(seed: int, n: int, slope: float = 0.4, offset: float = 3.0) -> tuple[np.ndarray, list[bool], list[str]]:
    """Scores like a sum of log-probs, right with probability sigmoid(slope * score + offset); 4 traces a problem."""
    generator = np.random.default_rng(seed)
    scores = -generator.gamma(2.0, 4.0, size=n)
    labels = generator.random(n) < expit(slope * scores + offset)
    return scores, labels.tolist(), [str(place // 4) for place in range(n)]


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_the_true_probabilities_are_found(method: CalibrationMethod) -> None:
    scores, labels, _ = world(0, 4000)
    found = fit_map(method, scores, labels)
    others, truth, _ = world(1, 4000)
    assert np.abs(found(others) - expit(0.4 * others + 3)).mean() < 0.03
    assert expected_calibration_error(found(others), truth) < 0.03
    assert expected_calibration_error(expit(others), truth) > 0.2  # what is mended


def test_temperature_is_a_logistic_regression_and_isotonic_is_scikit_learns() -> None:
    scores, labels, _ = world(2, 3000)
    slope, offset = fit_map(TEMPERATURE, scores, labels).numbers
    theirs = LogisticRegression(C=1e6, tol=1e-8).fit(scores[:, None], labels)  # its targets are 0 and 1, not Platt's
    assert (slope, offset) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), rel=0.01)
    grid = np.linspace(-60, 5, 200)
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(scores, np.array(labels, dtype=float))
    assert fit_map(ISOTONIC, scores, labels)(grid) == pytest.approx(isotonic.predict(grid))


@settings(deadline=None)
@given(st.sampled_from(list(CalibrationMethod)), st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2))
def test_a_map_never_falls_and_gives_probabilities(method: CalibrationMethod, pairs: list[tuple[float, bool]]) -> None:
    found = fit_map(method, [score for score, _ in pairs], [label for _, label in pairs])
    values = found(np.linspace(-80, 80, 60))
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) >= -1e-12).all()


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_a_reward_that_is_the_wrong_way_round_says_the_base_rate(method: CalibrationMethod) -> None:
    found = fit_map(method, [0, 1, 2, 3, 4, 5, 6, 7], [True] * 4 + [False] * 4)
    assert found([-1, 3, 9]) == pytest.approx([0.5] * 3, abs=1e-4)


def test_scores_that_separate_the_labels_have_a_finite_slope() -> None:
    slope, _ = fit_map(TEMPERATURE, [-2, -1, 1, 2], [False, False, True, True]).numbers
    assert 0 < slope < 10


def test_out_of_fold_no_problem_calibrates_itself() -> None:
    # One problem is all wrong in spite of its scores: a map that saw it would say so.
    scores = np.array([0.0, 1.0] * 10 + [5.0] * 4)
    labels = [False, True] * 10 + [False] * 4
    problems = [str(place // 2) for place in range(20)] + ["odd"] * 4
    assert out_of_fold(ISOTONIC, scores, labels, problems)[-4:] == pytest.approx([1.0] * 4)
    assert fit_map(ISOTONIC, scores, labels)([5.0])[0] < 0.75
    with pytest.raises(DataError, match="at least 2 to calibrate: got 1"):
        out_of_fold(ISOTONIC, scores, labels, ["p"] * 24)


def test_the_method_is_chosen_by_what_the_world_is_like() -> None:
    assert choose_method(*world(3, 400)) is TEMPERATURE
    scores, _, problems = world(4, 400)
    steps = [bool(score > -6) for score in scores]  # right above a line, wrong below
    steps[::9] = [not label for label in steps[::9]]
    assert choose_method(scores, steps, problems) is ISOTONIC


def calibration() -> Calibration:
    scores, labels, _ = world(5, 60)
    return Calibration(
        trace=fit_map(TEMPERATURE, scores, labels),
        step=fit_map(ISOTONIC, scores, labels),
        threshold=0.1 + 0.2,
        traces=("ab", "cd"),
    )


@pytest.mark.parametrize("head", list(Head))
def test_it_is_saved_with_the_reward_bit_for_bit_and_changes_no_score(
    make_reward: MakeReward, traces: list[EncodedTrace], tmp_path: Path, head: Head
) -> None:
    reward, place = make_reward(head), tmp_path / "reward"
    reward.save(place)
    before = RewardModel.load(place).score_encoded(traces)
    saved = calibration()
    save_calibration(place, saved)
    loaded = RewardModel.load(place)
    assert loaded.calibration == saved
    assert loaded.score_encoded(traces) == before
    loaded.save(tmp_path / "again")
    assert RewardModel.load(tmp_path / "again").calibration == saved
    other = Calibration(None, None, 1.0, ())
    save_calibration(place, other)  # in place of the first
    assert RewardModel.load(place).calibration == other


def test_training_ends_a_calibration(make_reward: MakeReward) -> None:
    reward = make_reward(Head.LOG_RATIO)
    reward.calibration = calibration()
    reward.eval()
    assert reward.calibration is not None
    reward.train()
    assert reward.calibration is None


def test_a_torn_or_changed_calibration_is_refused(make_reward: MakeReward, tmp_path: Path) -> None:
    place = tmp_path / "reward"
    make_reward(Head.SCALAR).save(place)
    save_calibration(place, calibration())
    file, card = place / "calibration.json", place / "card.json"
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace("0.30000000000000004", "0.5"), encoding="utf-8")
    with pytest.raises(RewardFileError, match=r"calibration.json must be as it was saved"):
        RewardModel.load(place)
    found = json.loads(whole)
    found["step"]["numbers"] = found["step"]["numbers"][:3]
    save_calibration_text(card, file, json.dumps(found))
    with pytest.raises(RewardFileError, match=r"whole calibration: got a broken one \(numbers must be pairs: got 3\)"):
        RewardModel.load(place)


def save_calibration_text(card: Path, file: Path, text: str) -> None:
    """A broken file that its card signs."""
    import hashlib

    file.write_text(text, encoding="utf-8")
    found = json.loads(card.read_text(encoding="utf-8"))
    found["files"][file.name] = hashlib.sha256(text.encode()).hexdigest()
    card.write_text(json.dumps(found), encoding="utf-8")


def test_a_map_of_two_numbers_reads_back() -> None:
    saved = ProbabilityMap(TEMPERATURE, (1 / 3, -2 / 7))
    again = Calibration.from_json(json.loads(json.dumps(Calibration(saved, None, None, ()).as_json())))
    assert again.trace == saved
