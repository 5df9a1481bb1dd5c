"""Runs on the same photos, set side by side."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from vtl.evaluation import metrics
from vtl.report.runs import Run

PROTOCOL = "lab"
"""The protocol of the comparisons: scikit-learn's AP, which the lab asks for."""

VOC2007_IMAGES = {"train": 5011, "test": 4952}


class Difference(NamedTuple):
    """The mAP of one run less that of another on the same photos, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """better, worse, or tie where the interval has zero in it."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "tie"


class Published(NamedTuple):
    """One figure of a paper, with what it depends on; mAP in percent."""

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
    """The runs on one data set, in the order in which they were given."""

    runs: list[Run]

    @property
    def first(self) -> Run:
        """Any of the runs: for what all share."""
        return self.runs[0]

    @property
    def name(self) -> str | None:
        """The data set, as the first config that names it calls it."""
        return next((run.data_name for run in self.runs if run.data_name), None)

    @property
    def best(self) -> Run:
        """The run of the highest mAP."""
        return max(self.runs, key=lambda run: run.of_shown("map")[PROTOCOL] or 0.0)

    def of_regime(self, *regimes: str) -> Run | None:
        """The best run of these regimes, if there is one."""
        found = [run for run in self.runs if run.regime in regimes]
        return DataSet(found).best if found else None

    @property
    def published(self) -> tuple[Published, ...]:
        """What papers report; nothing unless these are VOC2007's own photos, all of them."""
        counts = self.first.results["num_images"]
        is_voc2007 = self.name == "voc2007" and all(
            counts.get(role) == count for role, count in VOC2007_IMAGES.items()
        )
        return PUBLISHED if is_voc2007 else ()


@functools.cache
def difference(run: Run, other: Run) -> Difference | None:
    """The paired difference of two runs on one data set; None where no class has a positive."""
    shown = run.shown
    if run.of_shown("map")[PROTOCOL] is None or not shown.labels.any():
        return None
    return Difference(
        *metrics.paired_difference(
            shown.ranked_by, other.shown.ranked_by, shown.labels, shown.difficult, PROTOCOL
        )
    )


def by_data_set(runs: Sequence[Run]) -> list[DataSet]:
    """The runs that have scores, those on the same photos together."""
    groups: list[list[Run]] = []
    for run in runs:
        if not run.scores:
            continue
        same = (of for of in groups if all(run.is_on_the_photos_of(other) for other in of))
        group = next(same, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return [DataSet(members) for members in groups]
