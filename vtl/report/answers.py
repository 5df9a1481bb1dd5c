"""The lab's questions, answered from the runs: with a number and a picture, or a command."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from vtl.evaluation import convergence
from vtl.evaluation.conclusion import NETWORK_TITLES, Protocol, format_epochs, title
from vtl.report import figures, photos
from vtl.report.compare import PROTOCOL, DataSet, Difference, difference
from vtl.report.language import Language
from vtl.report.runs import Run
from vtl.report.tables import Cell, Table

DEMO_HEAD = (
    '--config.head=zeros --config.optim.rules=\'(("fc/.*", 1.0), (".*", None))\' '
    "--config.optim.learning_rate=0.1 --config.optim.momentum=0.0 --config.optim.schedule=constant "
    "--config.num_epochs=20 --config.data.difficult=negative"
)
"""What makes of the demo's fine-tuning what its linear probe does, on photos."""


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
    answer.paragraphs += study_sentences(study, language)
    for network in study.config["networks"]:
        for quantity in ("error", "gradients"):
            words = (
                language(f"figure_{quantity}", network=NETWORK_TITLES[network]),
                language("axis_epoch"),
                language(f"axis_{quantity}"),
            )
            answer.figures.append(figures.study_curves(study, network, quantity, words, language))
    answer.paragraphs += _why(study, language)
    return answer


def study_sentences(study: Run, language: Language) -> list[Markup]:
    """For each network, which activation reached the main threshold first, and by how much."""
    threshold = study.config["main_threshold"]
    sentences = []
    for network, of in study.results["networks"].items():
        protocol = _protocol(study, network)
        times = {
            activation: _times(found, threshold) for activation, found in of["activations"].items()
        }
        first, *others = times
        for other in others:
            found = compare_times((first, other), times, protocol, language)
            goal = f"{language.decimal(f'{100 * threshold:g}')} %"
            sentences.append(
                language("on_network", network=NETWORK_TITLES[network], goal=goal, found=found)
            )
    return sentences


def _times(found: dict[str, Any], threshold: float) -> np.ndarray | None:
    """Epochs [S] by seed, infinite where the threshold was not reached; None: all diverged."""
    if found["status"] == "diverged":
        return None
    epochs = [of["epochs_to_accuracy"][f"{threshold:g}"] for of in found["seeds"].values()]
    return np.array([math.inf if epoch is None else epoch for epoch in epochs])


def compare_times(
    names: tuple[str, str],
    times: dict[str, np.ndarray | None],
    protocol: Protocol,
    language: Language,
) -> Markup:
    """The sentence on two activations, as `conclusion.compare` draws it, in the page's language."""
    ran = [(name, of) for name in names if (of := times[name]) is not None]
    if len(ran) < 2:
        gone = language.listing(title(name) for name in names if times[name] is None)
        return language("study_diverged", gone=gone)
    (fast, fast_times), (slow, slow_times) = sorted(
        ran, key=lambda pair: convergence.median(pair[1])
    )
    values = {
        "fast": title(fast),
        "slow": title(slow),
        "epochs": language.decimal(f"{protocol.num_epochs:g}"),
    }
    if math.isinf(convergence.median(fast_times)):
        return language("study_neither", **values)
    num_epochs, *bootstrap = protocol
    for key, of in (("fast_epochs", fast_times), ("slow_epochs", slow_times)):
        estimate = convergence.median_estimate(of, *bootstrap)
        written = (language.decimal(format_epochs(value, num_epochs)) for value in estimate)
        values[key] = language.bracketed(*written)
    ratio = convergence.ratio_estimate(slow_times, fast_times, *protocol)
    values["ratio"] = _ratio(ratio, language)
    if len(fast_times) == 1:
        return language("study_single", **values)
    return language("study_faster" if ratio.low > 1 else "study_tie", **values)


def _ratio(ratio: convergence.Ratio, language: Language) -> str:
    decimals = 2 if ratio.value < 2 else 1
    value, low = (language.number(x, decimals) for x in (ratio.value, ratio.low))
    if ratio.is_least:
        return language("ratio_at_least", value=value, low=low)
    has_no_bound = math.isinf(ratio.high)
    high = language("no_bound") if has_no_bound else language.number(ratio.high, decimals)
    return language.bracketed(value, low, high)


def _why(study: Run, language: Language) -> list[Markup]:
    """The usual reason, where it shows; the first layer's gradients and idle units."""
    shown: list[str] = []
    not_shown: list[str] = []
    for network in study.results["networks"]:
        is_slow = _is_slower(study, network, "sigmoid", "relu")
        if is_slow is not None:
            (shown if is_slow else not_shown).append(NETWORK_TITLES[network])
    sentences = [
        language(key, networks=language.listing(names))
        for key, names in (("study_why", shown), ("study_why_not", not_shown))
        if names
    ]
    for network, of in study.results["networks"].items():
        gradients, idle, layer = [], [], ""
        for activation, found in of["activations"].items():
            if found["status"] == "diverged":
                continue
            layer, norm = _first_gradient(study, network, activation)
            rate = language.decimal(f"{found['learning_rate']:g}")
            with_rate = language("study_at_rate", rate=rate)
            gradients.append(f"{title(activation)} {language.number(norm, 3)} {with_rate}")
            for kind in ("saturated", "dead"):
                if found[kind]:
                    share = language.percent(max(found[kind].values()))
                    idle.append(language(f"study_{kind}", name=title(activation), share=share))
        for key, listed in (("study_gradients", gradients), ("study_idle", idle)):
            if listed:
                values = {"network": NETWORK_TITLES[network], "layer": layer}
                sentences.append(language(key, found=language.listing(listed), **values))
    return sentences


def _is_slower(study: Run, network: str, slow: str, fast: str) -> bool | None:
    """Whether one activation took more epochs than another, by its interval; None: not compared."""
    activations = study.results["networks"][network]["activations"]
    if not {slow, fast} <= activations.keys():
        return None
    threshold = study.config["main_threshold"]
    slow_times, fast_times = (_times(activations[name], threshold) for name in (slow, fast))
    if slow_times is None or fast_times is None or len(fast_times) == 1:
        return None
    if math.isinf(convergence.median(fast_times)):
        return False
    return convergence.ratio_estimate(slow_times, fast_times, *_protocol(study, network)).low > 1


def _protocol(study: Run, network: str) -> Protocol:
    of = study.results["networks"][network]
    return Protocol(of["num_epochs"], study.config["num_resamples"], study.results["seed"])


def _first_gradient(study: Run, network: str, activation: str) -> tuple[str, float]:
    """The first layer and the mean norm of its gradient over the first epoch of all seeds."""
    lines = [
        line
        for line in study.metrics
        if line["phase"] == "final"
        and (line["network"], line["activation"]) == (network, activation)
    ]
    key = next(key for key in lines[0] if key.startswith("gradient_norms/"))
    until = max(1.0, lines[0]["epoch"])
    norms = [line[key] for line in lines if line["epoch"] <= until and line[key] is not None]
    return key.partition("/")[2], float(np.mean(norms)) if norms else math.nan


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
        answer.commands = list(_commands(None, "finetuning"))
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
        answer.commands = list(_commands(None, "finetuning"))
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
            answer.commands += _commands(data_set, regime)
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
        answer.commands += _commands(data_set, question)
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
        answer.paragraphs += study_sentences(study, language)
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


def _commands(data_set: DataSet | None, what: str) -> list[str]:
    """What makes the run that is missing, on the data of the runs at hand."""
    main = "python -m vtl.main --config=configs"
    if data_set is not None and data_set.name == "demo":
        return {
            "probe": [f"{main}/deep_features.py:demo", f"{main}/linear_probe.py:demo"],
            "head": [f"{main}/finetune.py:demo --workdir=runs/head {DEMO_HEAD}"],
            "finetuning": [f"{main}/finetune.py:demo"],
        }[what]
    common, splits, features = "", "", "DF_ResNet50_VOC2007.npz"
    if data_set is not None:
        common, splits, features = _common(data_set)
    return {
        "probe": [
            f"{main}/deep_features.py --workdir=runs/features{common}",
            f"{main}/linear_probe.py --workdir=runs/probe "
            f"--config.features=runs/features/{features}{splits}",
        ],
        "head": [f"{main}/finetune.py:head --workdir=runs/head{common}"],
        "finetuning": [f"{main}/finetune.py --workdir=runs/finetune{common}"],
    }[what]


def _common(data_set: DataSet) -> tuple[str, str, str]:
    """What a missing run needs of the others, as options: data and weights; of a probe, splits.

    Then the name of the file of its features.
    """
    name, depth = data_set.name or "voc2007", 50
    options: dict[str, str] = {}
    splits: dict[str, str] = {}
    for run in data_set.runs:
        given = {
            "data.root": run.config.get("data", {}).get("root"),
            "weights": (run.results.get("weights") or {}).get("name"),
        }
        options |= {key: value for key, value in given.items() if value and key not in options}
        found = (run.results.get("data") or {}).get("splits", {})
        splits |= {
            f"{role}_split": found[role]
            for role, usual in (("train", "trainval"), ("test", "test"))
            if found.get(role, usual) != usual
        }
        depth = run.config.get("model", {}).get("depth", depth)
    options |= {f"data.{key}": value for key, value in splits.items()}
    if name != "voc2007":
        options["data.name"] = name
    return _written(options), _written(splits), f"DF_ResNet{depth}_{name.upper()}.npz"


def _written(options: Mapping[str, str]) -> str:
    return "".join(f" --config.{key}={shlex.quote(value)}" for key, value in options.items())
