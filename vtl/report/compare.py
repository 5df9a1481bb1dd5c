"""Compare runs on the same photos."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from vtl import stored_labels
from vtl.evaluation import metrics
from vtl.report.rejection import PROTOCOL, is_rejected
from vtl.report.runs import Run
from vtl.stored_labels import Labels

VOC2007_IMAGES = {"train": 5011, "test": 4952}


class Difference(NamedTuple):
    """The mAP of one run minus that of another on the same photos, with its 95 % interval.

    All are fractions: 0.01 is one point of mAP.
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """better, worse, or tie if the interval includes zero."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "tie"


class Published(NamedTuple):
    """One result of a paper, with what it depends on; mAP in percent."""

    source: str
    url: str
    model: str
    regime: str
    mean_ap: float
    average_precision: str
    difficult: str
    input: str


PUBLISHED = (
    Published(
        "SimCLR (Chen et al. 2020), table B.5",
        "https://arxiv.org/abs/2002.05709",
        "ResNet-50, L2 logistic regression",
        "probe",
        82.8,
        "11-point",
        "not stated",
        "224, centre crop",
    ),
    Published(
        "SimCLR (Chen et al. 2020), table B.5",
        "https://arxiv.org/abs/2002.05709",
        "ResNet-50, fine-tuned, rate and decay by grid",
        "full",
        85.0,
        "11-point",
        "not stated",
        "224, random crops and flips",
    ),
    Published(
        "SimCLR (Chen et al. 2020), table B.5",
        "https://arxiv.org/abs/2002.05709",
        "ResNet-50 from random initialisation",
        "scratch",
        67.3,
        "11-point",
        "not stated",
        "224, random crops and flips",
    ),
    Published(
        "VICReg (Bardes et al. 2022), table 2",
        "https://arxiv.org/abs/2105.04906",
        "ResNet-50, linear SVM, 2 x 2 pooled",
        "probe",
        87.5,
        "interpolated area (likely)",
        "left out (likely)",
        "224",
    ),
)
"""Supervised ImageNet networks on VOC2007, trained on trainval and tested on test."""


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """The runs on one data set, in the order of the command line."""

    runs: list[Run]

    @property
    def first(self) -> Run:
        """The first run, for what all runs share."""
        return self.runs[0]

    @property
    def name(self) -> str | None:
        """The data set's name, from the first run that has one."""
        return next((run.data_name for run in self.runs if run.data_name), None)

    @functools.cached_property
    def ranked(self) -> list[Run]:
        """The runs that nothing speaks against."""
        return [run for run in self.runs if not is_rejected(run)]

    @functools.cached_property
    def by_map(self) -> list[Run]:
        """The ranked runs, the one with the highest mAP first."""
        return sorted(self.ranked, key=lambda run: -(run.headline_result("map")[PROTOCOL] or 0.0))

    @property
    def best(self) -> Run:
        """The ranked run with the highest mAP; the first run where none is ranked."""
        return self.by_map[0] if self.by_map else self.first

    def of_regime(self, *regimes: str) -> Run | None:
        """The best ranked run of these regimes, or None."""
        candidates = [run for run in self.ranked if run.regime in regimes]
        return DataSet(candidates).best if candidates else None

    @property
    def published(self) -> tuple[Published, ...]:
        """What papers report; empty unless the runs use all of VOC2007's photos."""
        counts = self.first.results["num_images"]
        is_voc2007 = (self.name or "").lower() == "voc2007" and all(
            counts.get(role) == count for role, count in VOC2007_IMAGES.items()
        )
        return PUBLISHED if is_voc2007 else ()


@functools.cache
def difference(run: Run, other: Run) -> Difference | None:
    """The paired difference of two runs on one data set; None if no class has a positive."""
    ours, theirs = run.headline_scores, other.headline_scores
    if run.headline_result("map")[PROTOCOL] is None or not ours.labels.any():
        return None
    value, low, high = metrics.paired_difference(
        ours.ranked_by,
        theirs.ranked_by,
        ours.labels,
        ours.difficult,
        PROTOCOL,
        label_mask=ours.label_mask,
    )
    return Difference(value, low, high)


def changed_labels(run: Run, other: Run) -> tuple[int, int] | None:
    """How many labels differ, of how many photos that both runs have; known and not known differ.

    None if the classes differ, the photos have no ids, or there is none in both.
    """
    ours, theirs = run.headline_scores, other.headline_scores
    if ours.ids is None or theirs.ids is None:
        return None
    return stored_labels.changed(
        Labels(theirs.ids, other.classes, theirs.labels, theirs.label_mask),
        Labels(ours.ids, run.classes, ours.labels, ours.label_mask),
    )


def by_data_set(runs: Sequence[Run]) -> list[DataSet]:
    """The runs that have scores, grouped by their photos."""
    groups: list[list[Run]] = []
    for run in runs:
        if not run.scores:
            continue
        for group in groups:
            if all(run.has_same_photos_as(other) for other in group):
                group.append(run)
                break
        else:
            groups.append([run])
    return [DataSet(group) for group in groups]
