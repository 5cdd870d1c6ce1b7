"""Calibration errors against their definitions, the temperature against scikit-learn, thresholds against a search of all."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, f1_score, log_loss

from bert.data.examples import Example
from bert.finetuning.evaluation.calibration import BINS, calibration, fit_temperature, tune
from bert.finetuning.evaluation.scored import Scored
from bert.finetuning.tasks.classify import TASK as CLASSIFY
from bert.finetuning.tasks.multilabel import TASK as MULTILABEL
from bert.finetuning.tasks.multilabel import Multilabel
from bert.finetuning.tasks.regression import TASK as REGRESSION


def drawn(count, classes=3, temperature=1.0, seed=0):
    """Logits, and classes that are drawn from their softmax at a temperature: fitting should find it."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(count, classes)) * 2
    chances = softmax(logits / temperature, axis=1)
    return logits, np.array([draw.choice(classes, p=row) for row in chances])


def scored(task, logits, right):
    """Texts with these logits and gold labels."""
    names = "abc"[: logits.shape[1]]
    if task.name == "multilabel":
        gold = [tuple(name for name, one in zip(names, row) if one) for row in right]
    else:
        gold = [names[number] for number in right]
    examples = [Example(f"text {number}", label=label) for number, label in enumerate(gold)]
    return Scored(task, tuple(names), examples, torch.from_numpy(logits).float(), [1] * len(logits))


def test_nll_and_brier_are_those_of_scikit_learn():
    logits, right = drawn(300)
    found, chances = calibration(logits, right), softmax(logits, axis=1)
    assert found.nll == pytest.approx(log_loss(right, chances))
    assert found.brier == pytest.approx(brier_score_loss(right, chances, scale_by_half=False))


def test_the_calibration_error_is_the_mean_distance_over_the_bins():
    logits, right = drawn(300, temperature=3)
    chances = softmax(logits, axis=1)
    confidence, correct = chances.max(1), chances.argmax(1) == right
    error = 0.0
    for low in np.arange(BINS) / BINS:
        here = (confidence >= low) & (confidence < low + 1 / BINS)
        error += abs(confidence[here].sum() - correct[here].sum()) / 300
    found = calibration(logits, right)
    assert found.ece == pytest.approx(error)
    assert sum(count for *_, count in found.bins) == 300


def test_a_calibrated_model_has_about_its_expected_error_and_an_overconfident_one_more():
    good, bad = (calibration(*drawn(4000, temperature=t)) for t in (1.0, 2.5))
    assert good.ece < 1.6 * good.expected_ece
    assert bad.ece > 5 * bad.expected_ece


def test_the_risk_at_a_coverage_is_the_share_of_errors_among_the_most_confident():
    logits, right = drawn(50)
    chances = softmax(logits, axis=1)
    order = (-chances.max(1)).argsort(kind="stable")
    wrong = (chances.argmax(1) != right)[order]
    for number, (share, risk) in enumerate(calibration(logits, right).risk_coverage, start=1):
        assert share == pytest.approx(number / 50)
        assert risk == pytest.approx(wrong[:number].mean())


def test_the_temperature_is_that_of_scikit_learn():
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(600, 5)), draw.integers(3, size=600)
    x[np.arange(600), y] += 1.0
    model = LogisticRegression(C=1000).fit(x[:60], y[:60])
    fitted = CalibratedClassifierCV(FrozenEstimator(model), method="temperature").fit(x[60:], y[60:])
    logits = model.decision_function(x[60:])
    temperature = fit_temperature(logits, y[60:])
    assert abs(np.log(temperature)) > 0.05  # there is something to fit
    assert softmax(logits / temperature, axis=1) == pytest.approx(fitted.predict_proba(x[60:]), abs=1e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_data_is_found(temperature):
    assert fit_temperature(*drawn(6000, temperature=temperature)) == pytest.approx(temperature, rel=0.08)


def test_a_temperature_is_kept_only_if_it_helps_on_the_half_that_it_was_not_fitted_to():
    logits, right = drawn(2000, temperature=2.5)
    found = tune(scored(CLASSIFY, logits, right))
    assert found.temperature == pytest.approx(fit_temperature(logits, right), rel=1e-3)
    assert found.report["after"]["nll"] < found.report["before"]["nll"]
    assert found.report["after"]["ece"] < found.report["before"]["ece"]
    draw = np.random.default_rng(1)
    noise = tune(scored(CLASSIFY, 0.1 * draw.normal(size=(20, 3)), draw.integers(3, size=20)))
    assert noise.report["after"]["nll"] >= noise.report["before"]["nll"]
    assert noise.temperature == 1.0


def test_a_dev_set_without_errors_does_not_make_every_probability_1():
    logits, _ = drawn(30)
    assert fit_temperature(logits, logits.argmax(1)) < 0.06
    assert tune(scored(CLASSIFY, logits, logits.argmax(1))).temperature == 1.0


def test_what_it_achieves_is_measured_on_the_other_half():
    """Labels without any relation to the logits: a fit to the same rows finds one, a fit to the other half does not."""
    draw = np.random.default_rng(1)
    logits, right = draw.normal(size=(12, 3)), draw.integers(3, size=12)
    report = tune(scored(CLASSIFY, logits, right)).report
    temperature = fit_temperature(logits, right)
    same_rows = -log_softmax(logits / temperature, axis=1)[np.arange(12), right].mean()
    assert report["after"]["nll"] > same_rows + 0.01


def test_thresholds_have_the_largest_f1_of_all():
    draw = np.random.default_rng(2)
    right = (draw.random((200, 3)) < [0.5, 0.2, 0.1]).astype(int)
    logits = draw.normal(size=(200, 3)) + 1.5 * right - [0, 1, 2]
    found = MULTILABEL.tuned(torch.from_numpy(logits), torch.from_numpy(right.ravel()))
    chances = 1 / (1 + np.exp(-logits))
    for gold, p, threshold in zip(right.T, chances.T, found.thresholds):
        best = max(f1_score(gold, p >= one) for one in p)
        assert f1_score(gold, p >= threshold) == pytest.approx(best)


def test_a_rare_label_keeps_one_half():
    right = torch.zeros(100, 3, dtype=torch.long)
    right[:4, 0] = right[:50, 1] = 1
    right[:, 2] = 1
    assert MULTILABEL.tuned(torch.randn(100, 3), right.flatten()).thresholds[::2] == (0.5, 0.5)


def test_fitted_thresholds_decide_and_are_restored_from_their_settings():
    task = Multilabel([0.2, 0.7, 0.5])
    scores = torch.tensor([[0.3, 0.6, 0.5], [0.1, 0.8, 0.4]]).logit()
    assert task.decide(scores, [1, 1]).tolist() == [[1, 0, 1], [0, 1, 0]]
    again = MULTILABEL.restored(task.settings(), "abc")
    assert again.decide(scores, [1, 1]).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert task.prediction(Example("x"), scores[:1], "abc").labels == ("a", "c")
    for damaged in ({"thresholds": [0.5]}, {"thresholds": [0.5, 0.5, 1.5]}, {"thresholds": "abc"}):
        with pytest.raises((ValueError, TypeError)):
            MULTILABEL.restored(damaged, "abc")


def test_thresholds_are_kept_only_if_they_help_on_the_other_half():
    draw = np.random.default_rng(3)
    right = (draw.random((400, 3)) < [0.4, 0.2, 0.1]).astype(int)
    shifted = draw.normal(size=(400, 3)) + 2 * right - 3  # probabilities that are too low
    found = tune(scored(MULTILABEL, shifted, right))
    without, crossed = (found.report["thresholds"][name]["micro_f1"] for name in ("without", "cross_fitted"))
    assert found.report["thresholds"]["fitted"]
    assert crossed > without + 0.05
    assert len(found.task.thresholds) == 3
    separated = tune(scored(MULTILABEL, 20.0 * right - 10, right))  # nothing to gain
    assert not separated.report["thresholds"]["fitted"]
    assert separated.task.thresholds == ()


def test_numbers_have_no_calibration():
    logits = np.zeros((4, 1))
    assert REGRESSION.choices(torch.zeros(4, 1), torch.zeros(4))[0].shape == (0, 1)
    assert calibration(logits[:0], np.zeros(0, int)) is None
