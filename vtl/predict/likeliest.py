"""The likeliest classes of photos, printed."""

from collections.abc import Iterable

import numpy as np

from vtl.console import say
from vtl.predict.photos import Photo
from vtl.predict.predictor import Predictor
from vtl.predict.tally import Tally
from vtl.untrusted import printable

TOP = 5


def show(predictor: Predictor, photos: Iterable[Photo], top: int = TOP) -> Tally:
    """Print the likeliest classes of each photo.

    A star marks those that reach their threshold, where the network has thresholds.
    """
    tally, classes = Tally(), predictor.classes
    has_thresholds = predictor.weights.decisions is not None
    for predictions in predictor.predict(photos, batch_size=1):
        for name, probabilities, answers, problem in predictions:
            tally.count(name, problem)
            say(name)
            if probabilities is None or answers is None:
                say(f"  not read: {printable(problem)}")
                continue
            for c in np.argsort(-probabilities, kind="stable")[:top]:
                mark = "  *" if has_thresholds and answers[c] else ""
                say(f"  {probabilities[c]:6.1%}  {printable(classes[c], 100)}{mark}")
    if has_thresholds:
        say("* reaches the threshold of its class")
    return tally
