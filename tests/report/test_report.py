"""The report's numbers, its words, and its three files."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import CLASS_NAMES, LABELS, make_comparison, make_run
from scipy import stats
from sklearn.metrics import (
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
)

with warnings.catch_warnings():  # statsmodels 0.15 calls what its own dependencies deprecate
    warnings.simplefilter("ignore")
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.proportion import proportion_confint

from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.semantics import SWITCHES
from lightning_vgg.report import write_report
from lightning_vgg.report.answers import answers, headline
from lightning_vgg.report.comparison import read_comparison
from lightning_vgg.report.render import SECTIONS
from lightning_vgg.report.verdicts import undecided
from lightning_vgg.report.words import power_of_ten, verdict_sentences, verdict_title
from lightning_vgg.runs.folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with its report."""
    folder = tmp_path_factory.mktemp("comparison")
    write_report(read_comparison(make_comparison(folder)), folder)
    return folder


@pytest.fixture(scope="module")
def findings(folder: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "report.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text()


def accuracies(*wrong: int) -> list[float]:
    return [1 - number / 200 for number in wrong]


def test_verdicts_are_paired_where_the_arms_share_randomness(findings: dict[str, Any]) -> None:
    same, other = findings["verdicts"]
    ours, theirs = accuracies(10, 12, 11, 10), accuracies(11, 12, 10, 11)
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (same["arm"], same["reference"], same["paired"], same["seeds"]) == ("lightning-keras", "keras", True, 4)
    assert same["difference"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert (same["low"], same["high"]) == pytest.approx(tuple(interval))
    assert (same["verdict"], same["margin"], same["seeds_needed"]) == ("equivalent", 0.05, None)
    assert list(findings["paired_differences"]["lightning-keras"].values()) == pytest.approx([0.005, 0, -0.005, 0.005])
    interval = stats.ttest_ind(accuracies(60, 66, 58, 64), theirs, equal_var=False).confidence_interval(0.95)
    assert (other["arm"], other["paired"], other["verdict"]) == ("lightning-torch", False, "different")
    assert (other["low"], other["high"]) == pytest.approx(tuple(interval))


def test_every_number_traces_to_a_run_folder(folder: Path, findings: dict[str, Any], page: str) -> None:
    for arm, description in findings["arms"].items():
        for seed, run in description["runs"].items():
            opened = RunFolder.open(folder / run["folder"])
            assert run["test_acc"] == pytest.approx(opened.read_record()["test_acc"])
            assert opened.path.name == f"{arm}_seed{seed}"
            assert f'href="{run["folder"]}/"' in page
    links = set(re.findall(r'href="#(run-[\d-]+)"', page))
    assert len(links) == 16
    assert links <= set(re.findall(r'id="(run-[\d-]+)"', page))


def test_scores_by_class_and_confusions_are_those_of_scikit_learn(folder: Path, findings: dict[str, Any]) -> None:
    predicted = [RunFolder(folder / f"keras_seed{seed}").read_predictions()[1].argmax(1) for seed in range(4)]
    recalls = np.array([recall_score(LABELS, each, average=None) for each in predicted])
    for number, values in enumerate(findings["per_class"]["keras"]):
        assert values["mean"] == pytest.approx(recalls[:, number].mean())
        assert (values["low"], values["high"]) == pytest.approx((recalls[:, number].min(), recalls[:, number].max()))
    scores = [precision_recall_fscore_support(LABELS, each) for each in predicted]
    for number, values in enumerate(findings["class_scores"]["keras"]):
        precision, recall, f1 = (np.mean([each[kind][number] for each in scores]) for kind in range(3))
        assert values == pytest.approx({"precision": precision, "recall": recall, "f1": f1})
    for name, golden in (
        ("balanced_acc", balanced_accuracy_score),
        ("macro_f1", lambda *each: f1_score(*each, average="macro")),
    ):
        expected = [golden(LABELS, each) for each in predicted]
        described = findings["arms"]["keras"]
        assert described[name] == pytest.approx(np.mean(expected))
        assert [run[name] for run in described["runs"].values()] == pytest.approx(expected)
    expected = sum(confusion_matrix(LABELS, each) for each in predicted)
    assert findings["confusion"]["keras"] == expected.tolist()


def test_curves_are_means_within_bands(findings: dict[str, Any]) -> None:
    curve = findings["curves"]["keras"]["train_loss"]
    assert [point["epoch"] for point in curve] == [1, 2, 3, 4]
    assert curve[1] == {"epoch": 2, "mean": pytest.approx(1.015), "low": 1.0, "high": pytest.approx(1.03)}


def test_agreement_stands_beside_that_of_two_seeds(findings: dict[str, Any]) -> None:
    found = {tuple(each["arms"]): each for each in findings["agreement"]}
    # The first images are wrong: two runs with 10 and 12 wrong ones differ in 2 of 200.
    assert found["lightning-keras", "keras"]["pairs"] == 4
    assert found["lightning-keras", "keras"]["mean"] == pytest.approx(1 - np.mean([1, 0, 1, 1]) / 200)
    assert found["keras", "keras"]["pairs"] == 6
    assert found["keras", "keras"]["mean"] == pytest.approx(1 - np.mean([1, 1, 0, 2, 1, 1]) / 200)


def test_speed_is_a_ratio_within_each_seed(findings: dict[str, Any]) -> None:
    speed = findings["speed"]
    rates = speed["arms"]["lightning-keras"]["images_per_second"]
    ratios = 1500 / np.array([1000, 1100, 1200, 1300])
    assert rates["mean"] == 1500
    assert rates["ratio"]["mean"] == pytest.approx(stats.gmean(ratios))
    assert (rates["ratio"]["low"], rates["ratio"]["high"]) == pytest.approx((ratios.min(), ratios.max()))
    # Best validation accuracies: .9 less .001 a wrong image, .834 the least; after epoch 4, 3 and again 4.
    assert speed["target"] == 0.83
    to_target = {arm: speed["arms"][arm]["seconds_to_target"] for arm in speed["arms"]}
    assert to_target["keras"]["low"] == 4 * 2.0
    assert to_target["keras"]["high"] == 4 * 5.0


def test_an_older_run_without_startup_seconds_leaves_that_open(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", startup_seconds=None), make_run(tmp_path / "b", "keras")]
    assert cli.run(["report", *(str(run.path) for run in runs)]) == 0
    speed = json.loads((tmp_path / "report" / "report.json").read_text())["speed"]["arms"]
    assert speed["lightning-keras"]["startup_seconds"] is None
    assert speed["keras"]["startup_seconds"]["mean"] == 5.0


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, the titles of sections, and the pictures without a text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.mute: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.scripts += tag == "script" or any(name.startswith("on") for name in values)
        self.loads += [value or "" for name, value in attributes if name in ("src", "srcset", "data", "action")]
        if tag == "link" or (tag == "a" and ":" in (values["href"] or "")):
            self.loads.append(values["href"] or "")
        if tag == "h2":
            self.ids.append(values["id"] or "")
        if tag == "svg" and not (values.get("aria-hidden") == "true" or values.get("aria-label")):
            self.mute.append(self.get_starttag_text() or "")


def test_the_page_is_self_contained_and_every_picture_has_a_text(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.ids == [anchor for anchor in SECTIONS if anchor != "mistakes"]
    assert reader.loads == []
    assert reader.scripts == 0
    assert reader.mute == []
    assert "url(" not in page and "@import" not in page
    # Differences, twin, horizon, curves, classes, confusions, calibration.
    assert page.count('role="img"') == 2 + 1 + 4 + 4 + 1 + 4 + 4


def test_failed_runs_are_named_and_text_is_escaped(folder: Path, page: str) -> None:
    assert "keras, seed 4: killed by SIGKILL: &lt;out of memory&gt; (<code>logs/k4.log</code>)" in page
    assert "&lt;ox&gt;" in page and "<ox>" not in page
    assert "Without results: keras, seed 4" in (folder / "report.md").read_text()


def test_the_ladder_names_what_failed_and_what_has_no_gate(page: str, findings: dict[str, Any]) -> None:
    assert "4 of 6 rungs with a gate passed; 2 are reported, not gated. " in page
    assert "Failed: adam, 1 step (float32) and gradients (float64)." in page
    assert [each["name"] for each in findings["parity"] if each["limit"] is None] == ["sgd, 50 steps", "adam, 50 steps"]
    assert page.count('<td class="left reported">reported</td>') == 2
    assert "<td>∞</td>" in page
    assert "Without effect on this experiment: clip epsilon." in page


def test_the_text_report_says_the_same(folder: Path, findings: dict[str, Any]) -> None:
    text = (folder / "report.md").read_text()
    for answer in answers(findings):
        assert f"- **{answer['question']} {answer['word']}.** {' '.join(answer['sentences'])}\n" in text
    for verdict in findings["verdicts"]:
        assert verdict_title(verdict) in text
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == [
        title for anchor, title in SECTIONS.items() if anchor not in ("method", "mistakes")
    ]
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 11
    for table in tables:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1, table


def test_twin_and_horizon_are_shown_and_the_twin_comes_first(page: str, folder: Path) -> None:
    first = "The same training: both frameworks make the same prediction for every one of 200 test images."
    assert page.index(first) < page.index("differs from keras in test accuracy")
    assert "differ by at most 2.0e−14 of their size; of the last weights, block1.conv1.bias differs most" in page
    assert 'aria-label="Distance of the twins&#39; weights over 26 steps; at the end 4.0e-13"' in page
    assert "In float64, after 100 steps, Keras and Lightning differ on no prediction; rounding alone" in page
    assert "differ on 30.0 % of the predictions (half of them since step 10)" in page
    assert page.count('aria-label="float64, weights after 100 steps: Keras 1.0e-13, other kernels 1.0e-13, batch_') == 1
    assert "The others have one wrong default: batch norm epsilon." in page
    text = (folder / "report.md").read_text()
    assert first in text and "From `twin.json`." in text and "From `horizon.json`." in text


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "keras")
    for _ in range(2):  # the second time there is a folder report/, too
        assert cli.run(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("Not measured.") == 4
    assert "One seed does not show how much of this is chance" in page


def test_a_single_run_is_reported_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", wrong=20)
    assert cli.run(["report", str(run.path)]) == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    low, high = proportion_confint(180, 200, method="wilson")
    assert (found["one_run"]["low"], found["one_run"]["high"]) == pytest.approx((low, high))
    interval = f"(95 % interval for images of this kind {100 * low:.2f} % to {100 * high:.2f} %)"
    said = f"lightning-keras: test accuracy 90.00 % {interval}, balanced accuracy 90.00 %, macro F1 90.00 %, test loss "
    assert capsys.readouterr().out.startswith(said)
    assert said in (tmp_path / "report" / "report.html").read_text()
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| class | test images | lightning-keras: precision | recall | F1 |\n" in text
    assert "| cat | 50 | 90.00 % | 90.00 % | 90.00 % |\n" in text


def test_of_unbalanced_classes_the_curves_show_the_means_over_them(tmp_path: Path) -> None:
    """The runs of all other tests are from before these were counted."""
    counts = {part: {name: 10 * number for number, name in enumerate(CLASS_NAMES, 1)} for part in ("train", "test")}
    run = make_run(tmp_path / "a", images_per_class=counts)
    for row in run.read_history():
        run.write_history(row | {"val_balanced_acc": 0.1 * row["epoch"], "val_macro_f1": 0.2})
    assert cli.run(["report", str(run.path)]) == 0
    found = json.loads((tmp_path / "report" / "report.json").read_text())["curves"]["lightning-keras"]
    assert [point["mean"] for point in found["val_balanced_acc"]] == [0.1, 0.2, pytest.approx(0.3), 0.4]
    assert (
        "Validation macro F1 (%) over 4 epochs; means of the last epoch: lightning-keras 20"
        in (tmp_path / "report" / "report.html").read_text()
    )
    assert (
        "Validation balanced accuracy (%) | Validation macro F1 (%) |\n"
        in (tmp_path / "report" / "report.md").read_text()
    )
    run.update_record(images_per_class={"train": dict.fromkeys(CLASS_NAMES, 10)})
    assert cli.run(["report", str(run.path)]) == 0
    assert "balanced accuracy (%)" not in (tmp_path / "report" / "report.md").read_text()


def test_runs_that_early_stopping_ended_are_reported_with_the_epoch_that_was_tested(tmp_path: Path) -> None:
    """One by the highest accuracy, the other by the lowest loss; their curves are compared as far as both go."""
    runs = [
        make_run(tmp_path / "a", stopped="it gets no better", best_by="val_loss"),
        make_run(tmp_path / "b", "keras"),
    ]
    for epoch, loss in ((5, 0.1), (6, 0.2)):
        row = runs[0].read_history()[-1] | {"epoch": epoch, "val_loss": loss, "val_acc": 0.1 * epoch}
        runs[0].write_history(row)
    assert cli.run(["report", *(str(run.path) for run in runs)]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| 50.00 % | 5 of 6, stopped early |" in text and "| 4 of 4 |" in text
    assert "5 of 6, stopped early<" in (tmp_path / "report" / "report.html").read_text()


def test_two_single_runs_are_compared_by_mcnemars_test(tmp_path: Path) -> None:
    """The first 30 images are wrong in one, the first 12 and five more in the other."""
    runs = [make_run(tmp_path / "a", wrong=30), make_run(tmp_path / "b", "keras", wrong=12)]
    labels, logits = runs[1].read_predictions()
    logits[100:105] = np.roll(logits[100:105], 1, axis=1)
    runs[1].write_predictions(labels, logits)
    assert cli.run(["report", *(str(run.path) for run in runs)]) == 0
    (verdict,) = json.loads((tmp_path / "report" / "report.json").read_text())["verdicts"]
    assert (verdict["mcnemar"]["arm"], verdict["mcnemar"]["reference"]) == (5, 18)
    assert verdict["mcnemar"]["p_value"] == pytest.approx(mcnemar([[165, 5], [18, 12]], exact=True).pvalue)
    text = (tmp_path / "report" / "report.md").read_text()
    assert (
        "lightning-keras alone is right on 5 test images, keras alone on 18: as two trained networks they differ"
        in text
    )


def test_arms_without_a_common_seed_have_neither_agreement_nor_ratio(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{framework}{seed}", framework, seed=seed, wrong=seed)
        for framework, seeds in (("lightning", (1, 2)), ("keras", (3, 4)))
        for seed in seeds
    ]
    assert cli.run(["report", *(str(run.path) for run in runs)]) == 0
    findings = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [each["pairs"] for each in findings["agreement"]] == [1, 0, 1]
    assert findings["speed"]["arms"]["lightning-keras"]["images_per_second"]["ratio"] is None
    assert not findings["verdicts"][0]["paired"]


def verdict(**values: Any) -> dict[str, Any]:
    return {
        "arm": "a",
        "reference": "r",
        "paired": True,
        "seeds": 5,
        "reference_seeds": 5,
        "difference": 0.002,
        "level": 0.95,
        "low": -0.001,
        "high": 0.005,
        "margin": 0.01,
        "p_value": 0.0004,
        "verdict": "equivalent",
        "seeds_needed": None,
        "effect_size": 0.4,
        "superiority": 0.62,
        "mcnemar": {"arm": 30, "reference": 12, "p_value": 0.008},
        "noise": {"deviation": 0.005, "of_test_images": 0.004},
        "switches": 0,
        "mostly": None,
        **values,
    }


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "reject a difference of ±1 point or more (p < .001)."),
        ({"low": 0.001}, "There is a difference, but a smaller one than that."),
        ({"verdict": "different", "low": 0.002, "high": 0.02, "p_value": 0.7}, "whether the difference exceeds"),
        ({"verdict": "different", "low": 0.02, "high": 0.03, "p_value": 1.0}, "all of it lies beyond ±1 point"),
        ({"verdict": "undecided", "p_value": 0.2, "seeds_needed": 12}, "About 12 seeds of each arm would decide"),
        ({"verdict": "undecided", "p_value": 0.2}, "More than 10,000 seeds of each arm"),
        ({"verdict": "undecided", "p_value": 0.2}, "that is no evidence that the two are equal"),
        ({"verdict": "undecided", "low": None, "high": None, "p_value": None}, "One seed does not show"),
        ({"difference": -0.002}, "is 0.20 points below r's, 95 % interval −0.10 to +0.50"),
        ({"difference": 0.00001}, "equals r's to two decimals"),
        ({"margin": 0.005}, "±0.5 points"),
        ({"level": 0.9926}, "is 0.20 points above r's, 99.26 % interval −0.10 to +0.50"),
        ({}, "A run of a beats one of r with probability 62 %; the difference is +0.4 standard deviations of a run."),
        ({}, "spreads by 0.50 points; the test images alone would spread it by 0.40 (binomial, paired), so the"),
        ({}, "a alone is right on 30 test images, r alone on 12: as two trained networks they differ (McNemar's exact"),
        ({"paired": False, "seeds": 3}, "(3 seeds and 5, compared as independent samples)"),
    ],
)
def test_verdicts_in_words(values: dict[str, Any], words: str) -> None:
    assert words in " ".join(verdict_sentences(verdict(**values)))


def found(settings: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    """Findings with nothing in them but the answers."""
    machines = {"l": {"precision": "32-true"}}
    given = {"training": None, "rounding": None, "settings": settings, **values}
    return {"answers": given, "one_run": None, "reference": "r", "margin": 0.01, "machines": machines}


def test_the_headline_never_calls_an_undecided_arm_equal() -> None:
    said = headline(found([verdict(arm=kind, verdict=kind) for kind in ("equivalent", "different", "undecided")]))
    points = "(+0.20 points, 95 % interval −0.10 to +0.50)"
    assert said == (
        f"different {points} differs from r in test accuracy. "
        f"equivalent {points} matches the test accuracy of r to within ±1 point. "
        f"It is undecided whether undecided {points} matches the test accuracy of r to within ±1 point."
    )
    assert headline(found([])) == "There is only one arm, r, and nothing to compare it with."


@pytest.mark.parametrize(
    ("values", "word", "words"),
    [
        (
            {},
            "Yes",
            "In float32 the frameworks differ as much as rounding does: with the same seed k and l classify 30.1 ",
        ),
        ({"verdict": "different"}, "No", "the frameworks are farther apart than rounding takes them"),
        ({"verdict": "different", "difference": -0.01}, "No", "closer together than rounding takes one of them"),
        ({"verdict": "undecided"}, "Undecided", "it is undecided whether the frameworks are farther apart"),
        ({"low": None}, "Yes", "l and itself with other rounding 29.9 % (+0.20 points)."),
    ],
)
def test_rounding_in_words(values: dict[str, Any], word: str, words: str) -> None:
    apart = {"arm": "l", "other": "k", "rounded": "l-rounded", "frameworks": 0.301, "rounding": 0.299}
    measures = {"disagreement": verdict(**values), "accuracy": verdict(), "loss": verdict(verdict="undecided")}
    (answer,) = answers(found([], rounding={**apart, **measures}))
    assert (answer["question"], answer["word"]) == ("Same results in float32?", word)
    assert words in answer["sentences"][0]
    assert (
        "Their test accuracies are equivalent (+0.20 points, 95 % interval −0.10 to +0.50), their"
        in answer["sentences"][1]
    )
    assert "their test losses neither shown to be equivalent nor different (+0.0020 nats)." in answer["sentences"][1]


def test_rounding_is_measured_seed_by_seed(findings: dict[str, Any]) -> None:
    """The first images are wrong, so two runs differ on as many as their numbers of wrong ones do."""
    rounding = findings["answers"]["rounding"]
    apart, rounded = np.array([1, 0, 1, 1]) / 200, np.array([2, 0, 1, 1]) / 200
    assert (rounding["frameworks"], rounding["rounding"]) == pytest.approx((apart.mean(), rounded.mean()))
    assert rounding["disagreement"]["difference"] == pytest.approx(apart.mean() - rounded.mean())
    interval = stats.ttest_rel(apart, rounded).confidence_interval(0.95)
    assert (rounding["disagreement"]["low"], rounding["disagreement"]["high"]) == pytest.approx(tuple(interval))
    assert rounding["disagreement"]["verdict"] == "equivalent"
    assert rounding["accuracy"]["difference"] == findings["verdicts"][0]["difference"]
    losses = [
        [findings["arms"][arm]["runs"][str(seed)]["test_loss"] for seed in range(4)]
        for arm in ("lightning-keras", "keras")
    ]
    assert rounding["loss"]["difference"] == pytest.approx(np.subtract(*losses).mean())
    assert "lightning-keras-rounded" not in [verdict["arm"] for verdict in findings["verdicts"]]


def test_what_is_undecided_is_named(folder: Path) -> None:
    comparison = read_comparison(folder / "comparison.json")
    assert undecided(comparison) == []
    assert undecided(replace(comparison, margin=0.002)) == ["lightning-keras", "rounding"]
    assert undecided(replace(comparison, margin=0.01)) == []
    # The first of three looks is stricter than a look that is the only one.
    assert undecided(replace(comparison, margin=0.01, looks=[4, 8, 12])) == ["lightning-keras", "rounding"]


def test_other_settings_name_the_default_that_does_most(tmp_path: Path, findings: dict[str, Any]) -> None:
    (torch,) = findings["answers"]["settings"]
    assert (torch["arm"], torch["switches"]) == ("lightning-torch", len(SWITCHES))
    assert torch["mostly"] == {"switch": "batch_norm_momentum", "by": None}  # by the ablation
    arms = {"keras": (10, 11), "lightning-torch": (60, 62), "one": (11, 11), "other": (50, 53)}
    exceptions = {"one": ["batch_norm_momentum"], "other": ["initialization"]}
    for arm, numbers in arms.items():
        framework = "keras" if arm == "keras" else "lightning"
        semantics = "torch" if arm == "lightning-torch" else "keras"
        for seed, wrong in enumerate(numbers):
            given = {"semantics_except": exceptions.get(arm, [])}
            make_run(tmp_path / f"{arm}{seed}", framework, semantics, seed, wrong, **given)
    record = {
        "experiment": "made",
        "margin": 0.05,
        "reference": "keras",
        "arms": {arm: {str(seed): f"{arm}{seed}" for seed in range(2)} for arm in arms},
        "failed": [],
        "parity": None,
        "ablation": None,
    }
    (tmp_path / "comparison.json").write_text(json.dumps(record))
    write_report(read_comparison(tmp_path / "comparison.json"), tmp_path)
    found = {each["arm"]: each for each in json.loads((tmp_path / "report.json").read_text())["answers"]["settings"]}
    assert found["lightning-torch"]["mostly"] == {"switch": "initialization", "by": pytest.approx(-0.205)}
    assert found["one"]["mostly"] is None and found["one"]["switches"] == 1
    assert "mostly initialization, which alone makes −20.50" in (tmp_path / "report.md").read_text()


def test_the_spread_of_a_difference_is_split(findings: dict[str, Any]) -> None:
    """By hand: the two runs of seed 0 differ on one image of 200, so the counts are 1, 0, 0, ..."""
    noise = findings["verdicts"][0]["noise"]
    assert noise["deviation"] == pytest.approx(np.std([0.005, 0, -0.005, 0.005], ddof=1))
    a_seed = (1 / 200 - 1 / 200**2) / 200
    assert noise["of_test_images"] == pytest.approx(np.sqrt(3 / 4 * a_seed))


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (5.56e-16, "5.6e−16"), (3e-7, "3.0e−7"), (12.0, "1.2e+1"), (None, "–")]
)
def test_distances_are_written_in_decades(value: float | None, text: str) -> None:
    assert power_of_ten(value) == text


def test_many_classes_are_shown_by_those_that_differ(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(30)]
    for name, framework in (("a", "lightning"), ("b", "keras")):
        run = make_run(tmp_path / name, framework, class_names=names)
        labels = np.repeat(np.arange(30), 2)
        logits = 3.0 * np.eye(30)[labels]
        if framework == "keras":
            logits[-1] = logits[0]
        run.write_predictions(labels, logits)
    assert cli.run(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "the 20 classes in which the arms differ most" in page
    assert "class 29 → class 0: 50.0 %" in page
    assert "Confusion matrix" not in page


def test_runs_tested_on_other_images_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", "keras").write_predictions(LABELS[:100], np.zeros((100, 4)))
    assert cli.run(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'b'} was tested on other images than {tmp_path / 'a'}" in error
    assert not (tmp_path / "report").exists()


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "parity.json").write_text("{")
    with pytest.raises(ExperimentError, match=r"parity\.json is damaged"):
        write_report(read_comparison(tmp_path / "comparison.json"), tmp_path)
    predictions = tmp_path / "keras_seed0" / "test_predictions.npz"
    predictions.write_bytes(predictions.read_bytes()[:500])
    with pytest.raises(ExperimentError, match="keras_seed0 is damaged"):
        write_report(read_comparison(tmp_path / "comparison.json"), tmp_path)
    assert (tmp_path / "report.html").read_text() == (folder / "report.html").read_text()  # the old one stays


def test_the_command_reports_a_comparison_into_its_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "report.html").unlink()
    assert cli.run(["report", str(tmp_path)]) == 0
    *answers, last = capsys.readouterr().out.splitlines()
    assert last == f"report   {tmp_path / 'report.html'}"
    assert [line.partition("?")[0] for line in answers] == [
        "Same training",
        "Same results in float32",
        "Whose defaults",
    ]
    assert cli.run(["report", str(tmp_path), "--margin", "0.2"]) == 2
    assert "was fixed before its runs" in capsys.readouterr().err
    assert cli.run(["report", str(tmp_path), str(tmp_path / "keras_seed0")]) == 2
    assert "is a comparison: name only it" in capsys.readouterr().err
    assert cli.run(["report", str(tmp_path / "logs")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert cli.run(["report", str(tmp_path / "keras_seed0"), "--margin", "3"]) == 2
    assert "fraction such as 0.01" in capsys.readouterr().err


def test_class_names_of_the_made_runs_are_shown(page: str) -> None:
    assert all(name.replace("<", "&lt;").replace(">", "&gt;") in page for name in CLASS_NAMES)
