"""The lab's questions, each answered from the runs, or with the commands that make them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from vtl.report import commands, figures, relu_study
from vtl.report.canvas import Stroke
from vtl.report.compare import DataSet, Difference, difference
from vtl.report.language import Language
from vtl.report.photos import ExamplePhoto
from vtl.report.rejection import PROTOCOL
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

MAX_COMPARED = 6
"""Runs that the conclusion compares with the best: a sentence and a bootstrap each."""


@dataclasses.dataclass
class Answer:
    """A question, its answer, and the commands that make the runs which it lacks.

    `photo` is a data URI, or empty.
    """

    question: Markup
    paragraphs: list[Markup] = dataclasses.field(default_factory=list)
    figures: list[Markup] = dataclasses.field(default_factory=list)
    commands: list[str] = dataclasses.field(default_factory=list)
    photo: str = ""
    photo_alt: str = ""
    table: Table | None = None


def all_answers(
    runs: Sequence[Run],
    data_set: DataSet | None,
    styles: Mapping[str, Stroke],
    language: Language,
) -> list[Answer]:
    """The questions in the lab's order, then the conclusion, all answered from `data_set`."""
    study = next((run for run in runs if run.task == "relu_study"), None)
    example = ExamplePhoto.of(data_set) if data_set else None
    of_several_labels = [
        _sigmoid(data_set, example, language),
        _cross_entropy(data_set, example, language),
    ]
    if data_set and "one_label" in data_set.first.results:
        of_several_labels = []  # its classes compete: neither is what it was trained with
    answers = [
        _activation(study, language),
        *of_several_labels,
        _freezing(data_set, language),
        _mean_ap(data_set, ("probe",), "probe", styles, language),
        _mean_ap(data_set, ("full", "partial"), "finetuning", styles, language),
    ]
    return [*answers, _conclusion(study, data_set, language)]


def _activation(study: Run | None, language: Language) -> Answer:
    answer = Answer(language("q_activation"))
    if study is None:
        answer.commands = ["vtl relu_study:digits"]
        return answer
    answer.paragraphs += relu_study.sentences(study, language)
    for network in study.config["networks"]:
        for quantity in ("error", "gradients"):
            answer.figures.append(figures.study_curves(study, network, quantity, language))
    answer.paragraphs += relu_study.reasons(study, language)
    return answer


def _sigmoid(data_set: DataSet | None, example: ExamplePhoto | None, language: Language) -> Answer:
    answer = Answer(language("q_sigmoid"))
    if data_set is None:
        answer.commands = list(commands.to_make("finetuning", None))
        return answer
    counts = data_set.first.headline_scores.labels.sum(axis=1)
    share = float(np.mean(counts > 1))
    answer.paragraphs.append(
        language(
            "sigmoid_several" if share else "sigmoid_single",
            share=language.percent(share),
            mean=language.number(float(counts.mean()), 2),
            most=int(counts.max()),
        )
    )
    if example is None:
        return answer
    logits = _logits(example.scores)
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    answer.paragraphs.append(
        language(
            "sigmoid_one",
            photo=example.name,
            run=example.run.name,
            labels=language.listing(example.present() or [language("nothing")]),
            total=language.number(float(example.scores.sum()), 2),
        )
    )
    answer.photo, answer.photo_alt = example.thumbnail, example.describe(language)
    likeliest = np.argsort(-example.scores, kind="stable")[: figures.MAX_CLASSES]
    drawn = np.sort(likeliest)
    values = {"sigmoid": example.scores[drawn], "softmax": softmax[drawn]}
    classes = [example.run.classes[column] for column in drawn]
    answer.figures.append(figures.scores_of_photo(classes, values, language))
    answer.paragraphs += _left_out(example.run, language)
    return answer


def _left_out(run: Run, language: Language) -> list[Markup]:
    count = figures.num_left_out(run.classes)
    return [language("photos_left_out", count=count)] if count else []


def _logits(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _cross_entropy(
    data_set: DataSet | None, example: ExamplePhoto | None, language: Language
) -> Answer:
    answer = Answer(language("q_cross_entropy"))
    if data_set is None:
        answer.commands = list(commands.to_make("finetuning", None))
        return answer
    num_classes = len(data_set.first.classes)
    answer.paragraphs.append(language("bce_formula", num_classes=num_classes))
    if example is None or example.run.headline_result("loss") is None:
        return answer
    of_truth = np.where(example.labels == 1, example.scores, 1 - example.scores)
    terms = -np.log(np.clip(of_truth, 1e-7, 1 - 1e-7).astype(np.float64))
    worst = int(terms.argmax())
    answer.paragraphs.append(
        language(
            "bce_one",
            photo=example.name,
            total=language.number(float(terms.sum()), 3),
            mean=language.number(float(terms.mean()), 4),
            num_classes=num_classes,
            worst=example.run.classes[worst],
            worst_term=language.number(float(terms[worst]), 3),
            split=example.run.headline_split,
            loss=language.number(example.run.headline_result("loss"), 4),
        )
    )
    answer.table = _terms_table(example, terms, language)
    answer.photo, answer.photo_alt = example.thumbnail, example.describe(language)
    answer.figures.append(figures.log_loss(example.scores, example.labels, language))
    return answer


def _terms_table(example: ExamplePhoto, terms: np.ndarray, language: Language) -> Table:
    """One row a class: its label, its score and its term [C] of the cross-entropy."""
    headings = [language(f"bce_{key}") for key in ("class", "label", "score", "term")]
    rows = []
    for column, name in enumerate(example.run.classes):
        label, score, term = int(example.labels[column]), example.scores[column], terms[column]
        rows.append(
            [
                Cell(name),
                Cell(label, label),
                Cell(language.number(score, 4), float(score)),
                Cell(language.number(term, 4), float(term)),
            ]
        )
    return Table(headings, rows)


def _freezing(data_set: DataSet | None, language: Language) -> Answer:
    answer = Answer(language("q_freezing"), [language("freezing_is")])
    head = data_set.of_regime("head") if data_set else None
    probe = data_set.of_regime("probe") if data_set else None
    if data_set and head and probe:
        head_minus_probe = difference(head, probe)
        answer.paragraphs.append(verdict(head, probe, head_minus_probe, language))
        if head_minus_probe:
            is_tie = head_minus_probe.verdict == "tie"
            answer.paragraphs.append(language("freezing_tie" if is_tie else "freezing_differ"))
            by_name = {_minus(head, probe): head_minus_probe}
            answer.figures.append(figures.differences(by_name, language))
    for regime, run in (("head", head), ("probe", probe)):
        if run is None:
            answer.commands += commands.to_make(regime, data_set)
    return answer


def _mean_ap(
    data_set: DataSet | None,
    regimes: tuple[str, ...],
    question: str,
    styles: Mapping[str, Stroke],
    language: Language,
) -> Answer:
    answer = Answer(language(f"q_{question}"))
    run = data_set.of_regime(*regimes) if data_set else None
    if data_set is None or run is None:
        answer.commands += commands.to_make(question, data_set)
        return answer
    answer.paragraphs.append(mean_ap_sentence(run, language))
    if "one_label" in run.results:
        answer.paragraphs.append(_accuracy_sentence(run, language))
    probe = data_set.of_regime("probe")
    if question == "finetuning" and probe:
        answer.paragraphs.append(verdict(run, probe, difference(run, probe), language))
    ap = run.headline_result("ap")[PROTOCOL]
    classes = sorted(run.classes, key=lambda name: -(ap[name] or 0.0))
    drawn = classes[: figures.MAX_CLASSES]
    answer.figures.append(figures.class_precisions(DataSet([run]), styles, drawn, language))
    answer.paragraphs += _left_out(run, language)
    return answer


def _accuracy_sentence(run: Run, language: Language) -> Markup:
    """How many photos with one label each are named right."""
    found = run.headline_result("one_label")
    return language(
        "one_label",
        split=run.headline_split,
        accuracy=language.estimate(found["accuracy"], found["accuracy_interval"]),
        balanced=language.estimate(found["balanced_accuracy"], found["balanced_accuracy_interval"]),
    )


def mean_ap_sentence(run: Run, language: Language) -> Markup:
    """The mAP under each protocol with its interval on test, and the mAP on train."""
    means, intervals = run.headline_result("map"), run.headline_result("map_interval")
    parts = [
        f"{language.estimate(mean, intervals[name])} ({name})"
        for name, mean in means.items()
        if mean is not None
    ]
    train = run.results["map"].get("train", {}).get(PROTOCOL)
    return language(
        "mean_ap" if run.headline_split != "train" and train is not None else "mean_ap_alone",
        run=run.name,
        means=language.listing(parts or ["–"]),
        split=run.headline_split,
        count=language.number(run.headline_result("num_images"), 0),
        train=language.percent(train),
        protocol=PROTOCOL,
    )


def verdict(run: Run, other: Run, gap: Difference | None, language: Language) -> Markup:
    """Which of two runs is better on the same photos and by how much, or that they are tied.

    `gap` is `difference(run, other)`.
    """
    names = {"run": run.name, "other": other.name}
    if gap is None:
        return language("verdict_none", **names)
    if gap.verdict == "worse":
        names = {"run": other.name, "other": run.name}
        gap = Difference(-gap.value, -gap.high, -gap.low)
    return language(
        "verdict_tie" if gap.verdict == "tie" else "verdict_better",
        **names,
        points=language.percent(gap.value, signed=True),
        interval=language.interval((gap.low, gap.high), signed=True),
        protocol=PROTOCOL,
    )


def _minus(run: Run, other: Run) -> str:
    return f"{run.name} – {other.name}"


def _conclusion(study: Run | None, data_set: DataSet | None, language: Language) -> Answer:
    answer = Answer(language("q_conclusion"))
    if study is not None:
        answer.paragraphs += relu_study.sentences(study, language)
    if data_set is None or not data_set.ranked:
        return answer
    best = data_set.best
    answer.paragraphs.append(
        language(
            "conclusion_best",
            name=language.data_set(data_set.name),
            run=best.name,
            split=best.headline_split,
        )
    )
    by_name = {}
    others = [run for run in data_set.by_map if run is not best]
    for run in others[:MAX_COMPARED]:
        gap = difference(best, run)
        if gap:
            answer.paragraphs.append(verdict(best, run, gap, language))
            by_name[_minus(best, run)] = gap
    if len(others) > MAX_COMPARED:
        answer.paragraphs.append(language("conclusion_more", count=len(others) - MAX_COMPARED))
    answer.paragraphs += _worth_of_pretraining(data_set, language)
    if by_name:
        answer.figures.append(figures.differences(by_name, language))
    return answer


def _worth_of_pretraining(data_set: DataSet, language: Language) -> list[Markup]:
    """A sentence that compares a run from scratch with the run that trains the most layers."""
    scratch = data_set.of_regime("scratch")
    candidates = (data_set.of_regime(regime) for regime in ("full", "partial", "head", "probe"))
    pretrained = next(filter(None, candidates), None)
    if scratch is None or pretrained is None:
        return []
    gap = difference(pretrained, scratch)
    if gap is None:
        return []
    return [
        language(
            f"conclusion_pretraining_{gap.verdict}",
            run=pretrained.name,
            scratch=scratch.name,
            points=language.percent(gap.value, signed=True),
            interval=language.interval((gap.low, gap.high), signed=True),
        )
    ]
