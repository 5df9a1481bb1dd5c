"""The lab's questions, answered from the runs: with a number and a picture, or a command."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from vtl.relu_study.conclusion import NETWORK_TITLES
from vtl.report import commands, figures, photos, relu_study
from vtl.report.compare import PROTOCOL, DataSet, Difference, difference
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table


@dataclasses.dataclass
class Answer:
    """A question with paragraphs, figures and the commands that make runs which are missing."""

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
    styles: Mapping[str, figures.Stroke],
    language: Language,
) -> list[Answer]:
    """The questions in the lab's order, then the conclusion; `data_set` is what the page is on."""
    study = next((run for run in runs if run.task == "relu_study"), None)
    one = _OnePhoto.of(data_set) if data_set else None
    answers = [
        _activation(study, language),
        _sigmoid(data_set, one, language),
        _cross_entropy(data_set, one, language),
        _freezing(data_set, language),
        _mean_ap(data_set, ("probe",), "probe", styles, language),
        _mean_ap(data_set, ("full", "partial"), "finetuning", styles, language),
    ]
    return [*answers, _conclusion(study, data_set, language)]


def _activation(study: Run | None, language: Language) -> Answer:
    answer = Answer(language("q_activation"))
    if study is None:
        answer.commands = ["python -m vtl.main --config=configs/relu_study.py --workdir=runs/relu"]
        return answer
    answer.paragraphs += relu_study.sentences(study, language)
    for network in study.config["networks"]:
        for quantity in ("error", "gradients"):
            words = (
                language(f"figure_{quantity}", network=NETWORK_TITLES[network]),
                language("axis_epoch"),
                language(f"axis_{quantity}"),
            )
            answer.figures.append(figures.study_curves(study, network, quantity, words, language))
    answer.paragraphs += relu_study.reasons(study, language)
    return answer


@dataclasses.dataclass(frozen=True, eq=False)
class _OnePhoto:
    """The photo on which scores are explained: of those in a gallery, the one of most labels."""

    run: Run
    name: str
    scores: np.ndarray
    labels: np.ndarray
    thumbnail: str

    @staticmethod
    def of(data_set: DataSet) -> "_OnePhoto | None":
        """None where the scores are no probabilities, and there is nothing to work out."""
        run = next((run for run in (data_set.best, *data_set.runs) if run.gallery), data_set.best)
        if run.shown.scores.min() < 0 or run.shown.scores.max() > 1:
            return None
        if run.gallery:
            labels = run.gallery["labels"]
            row = int(labels.sum(axis=1).argmax())
            name, scores = str(run.gallery["ids"][row]), run.gallery["scores"][row]
            return _OnePhoto(run, name, scores, labels[row], photos.thumbnail(run, row))
        shown = run.shown
        row = int(shown.labels.sum(axis=1).argmax())
        name = str(row if shown.ids is None else shown.ids[row])
        return _OnePhoto(run, name, shown.scores[row], shown.labels[row], "")

    def describe(self, language: Language) -> Markup:
        labels = ", ".join(self.present()) or language("nothing")
        return language("alt_photo", photo=self.name, labels=labels)

    def present(self) -> list[str]:
        return [
            name for name, label in zip(self.run.classes, self.labels, strict=True) if label == 1
        ]


def _sigmoid(data_set: DataSet | None, one: _OnePhoto | None, language: Language) -> Answer:
    answer = Answer(language("q_sigmoid"))
    if data_set is None:
        answer.commands = list(commands.to_make("finetuning", None))
        return answer
    counts = data_set.first.shown.labels.sum(axis=1)
    several = float(np.mean(counts > 1))
    key = "sigmoid_several" if several else "sigmoid_single"
    answer.paragraphs.append(
        language(
            key,
            share=language.percent(several),
            mean=language.number(float(counts.mean()), 2),
            most=int(counts.max()),
        )
    )
    if one is None:
        return answer
    logits = _logits(one.scores)
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    answer.paragraphs.append(
        language(
            "sigmoid_one",
            photo=one.name,
            run=one.run.name,
            labels=language.listing(one.present() or [language("nothing")]),
            total=language.number(float(one.scores.sum()), 2),
        )
    )
    answer.photo, answer.photo_alt = one.thumbnail, one.describe(language)
    values = {"sigmoid": one.scores, "softmax": softmax}
    words = (language("figure_sigmoid"), language("axis_score"))
    answer.figures.append(figures.scores_of_one(one.run.classes, values, words, language))
    return answer


def _logits(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _cross_entropy(data_set: DataSet | None, one: _OnePhoto | None, language: Language) -> Answer:
    answer = Answer(language("q_cross_entropy"))
    if data_set is None:
        answer.commands = list(commands.to_make("finetuning", None))
        return answer
    num_classes = len(data_set.first.classes)
    answer.paragraphs.append(language("bce_formula", num_classes=num_classes))
    if one is None:
        return answer
    given = np.clip(np.where(one.labels == 1, one.scores, 1 - one.scores), 1e-7, 1 - 1e-7)
    terms = -np.log(given.astype(np.float64))
    worst = int(terms.argmax())
    answer.paragraphs.append(
        language(
            "bce_one",
            photo=one.name,
            total=language.number(float(terms.sum()), 3),
            mean=language.number(float(terms.mean()), 4),
            num_classes=num_classes,
            worst=one.run.classes[worst],
            worst_term=language.number(float(terms[worst]), 3),
            split=one.run.role,
            loss=language.number(one.run.of_shown("loss"), 4),
        )
    )
    rows = []
    for name, label, *numbers in zip(one.run.classes, one.labels, one.scores, terms, strict=True):
        cells = [Cell(language.number(float(x), 4), float(x)) for x in numbers]
        rows.append([Cell(name), Cell(int(label), int(label)), *cells])
    headings = [language(f"bce_{key}") for key in ("class", "label", "score", "term")]
    answer.table = Table(headings, rows)
    answer.photo, answer.photo_alt = one.thumbnail, one.describe(language)
    answer.figures.append(figures.log_loss(one.scores, one.labels, language))
    return answer


def _freezing(data_set: DataSet | None, language: Language) -> Answer:
    answer = Answer(language("q_freezing"), [language("freezing_is")])
    head = data_set.of_regime("head") if data_set else None
    probe = data_set.of_regime("probe") if data_set else None
    if data_set and head and probe:
        found = difference(head, probe)
        answer.paragraphs.append(verdict(head, probe, found, language))
        if found:
            agree = "tie" if found.verdict == "tie" else "differ"
            answer.paragraphs.append(language(f"freezing_{agree}"))
            label = f"{head.name} – {probe.name}"
            title = language("figure_differences", protocol=PROTOCOL)
            answer.figures.append(figures.differences([(label, *found)], title, language))
    for regime, run in (("head", head), ("probe", probe)):
        if run is None:
            answer.commands += commands.to_make(regime, data_set)
    return answer


def _mean_ap(
    data_set: DataSet | None,
    regimes: tuple[str, ...],
    question: str,
    styles: Mapping[str, figures.Stroke],
    language: Language,
) -> Answer:
    answer = Answer(language(f"q_{question}"))
    run = data_set.of_regime(*regimes) if data_set else None
    if data_set is None or run is None:
        answer.commands += commands.to_make(question, data_set)
        return answer
    answer.paragraphs.append(mean_ap_sentence(run, language))
    probe = data_set.of_regime("probe")
    if question == "finetuning" and probe:
        answer.paragraphs.append(verdict(run, probe, difference(run, probe), language))
    ap = {name: value or 0.0 for name, value in run.of_shown("ap")[PROTOCOL].items()}
    classes = sorted(run.classes, key=lambda name: -ap[name])
    answer.figures.append(figures.class_precisions(DataSet([run]), styles, classes, language))
    return answer


def mean_ap_sentence(run: Run, language: Language) -> Markup:
    """The mAP under each protocol, with its interval, on test and on train."""
    means, intervals = run.of_shown("map"), run.of_shown("map_interval")
    parts = [
        f"{language.estimate(mean, intervals[name])} ({name})"
        for name, mean in means.items()
        if mean is not None
    ]
    train = run.results["map"].get("train", {}).get(PROTOCOL)
    return language(
        "mean_ap" if run.role != "train" and train is not None else "mean_ap_alone",
        run=run.name,
        means=language.listing(parts or ["–"]),
        split=run.role,
        count=language.number(run.of_shown("num_images"), 0),
        train=language.percent(train),
        protocol=PROTOCOL,
    )


def verdict(run: Run, other: Run, found: Difference | None, language: Language) -> Markup:
    """Which of two runs is better on the same photos, by how much, or that it is a tie."""
    names = {"run": run.name, "other": other.name}
    if found is None:
        return language("verdict_none", **names)
    if found.verdict == "worse":
        names = {"run": other.name, "other": run.name}
        found = Difference(-found.value, -found.high, -found.low)
    return language(
        "verdict_tie" if found.verdict == "tie" else "verdict_better",
        **names,
        points=language.percent(found.value, signed=True),
        interval=language.interval(found[1:], signed=True),
        protocol=PROTOCOL,
    )


def _conclusion(study: Run | None, data_set: DataSet | None, language: Language) -> Answer:
    answer = Answer(language("q_conclusion"))
    if study is not None:
        answer.paragraphs += relu_study.sentences(study, language)
    if data_set is None:
        return answer
    best = data_set.best
    name = language.data_set(data_set.name)
    answer.paragraphs.append(language("conclusion_best", name=name, run=best.name, split=best.role))
    rows = []
    for run in data_set.runs:
        found = None if run is best else difference(best, run)
        if found:
            answer.paragraphs.append(verdict(best, run, found, language))
            rows.append((f"{best.name} – {run.name}", *found))
    scratch = data_set.of_regime("scratch")
    tried = (data_set.of_regime(regime) for regime in ("full", "partial", "head", "probe"))
    pretrained = next(filter(None, tried), None)
    if scratch and pretrained:
        worth = difference(pretrained, scratch)
        if worth:
            points = language.percent(worth.value, signed=True)
            interval = language.interval(worth[1:], signed=True)
            key = f"conclusion_pretraining_{worth.verdict}"
            names = {"run": pretrained.name, "scratch": scratch.name}
            answer.paragraphs.append(language(key, points=points, interval=interval, **names))
    if rows:
        title = language("figure_differences", protocol=PROTOCOL)
        answer.figures.append(figures.differences(rows, title, language))
    return answer
