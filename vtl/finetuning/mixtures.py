"""Which state is the best, and its mixtures with the start (WiSE-FT, Wortsman et al. 2022)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vtl.data.batches import Images
from vtl.data.split import Split
from vtl.errors import UserError
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.finetuning.job import Job, mean_ap_of
from vtl.run_directory import RunDirectory
from vtl.training.state import TrainState, replicate

TRAINED = 1.0
"""The weight of what is trained where nothing is mixed."""

VAL_MAP = f"val_map_{MAP_PROTOCOL}"
"""Of a state as it was trained."""

VAL_LOSS = "val_loss"
"""Of a state as it was trained, by the run's own loss."""

BEST = f"best_{VAL_MAP}"
"""Of the best that counts of a state and its mixtures; it is missing if none does."""

MIX = "mix"
"""The weight of that best; only with mixtures."""


def check(mixes: tuple[float, ...], *, keep: str, can_choose: bool) -> None:
    """Raise UserError if there are mixtures, and nothing to choose one by."""
    if mixes and keep != "best":
        raise UserError(
            f"mix_with_start chooses a mixture, and keep={keep} takes the last state as it is: "
            "choose keep=best, or mix_with_start=()"
        )
    if mixes and not can_choose:
        raise UserError(
            "mix_with_start needs photos to choose a mixture by: name data.val_split, or hold some "
            "out by held_out=0.2"
        )


@jax.jit
def _between(start: Any, trained: Any, mix: jax.Array) -> Any:
    return jax.tree.map(lambda s, t: s + mix * (t - s), start, trained)


def mixture(start: Any, trained: Any, mix: float, mesh: Mesh) -> Any:
    """(1 - mix) * start + mix * trained, BatchNorm's statistics like the parameters, on a mesh.

    What is equal in both, as what was frozen is, stays so to the bit.
    """
    return trained if mix == TRAINED else _between(replicate(start, mesh), trained, np.float32(mix))


def score(
    job: Job,
    start: Callable[[], Any],
    state: TrainState,
    images: Images,
    split: Split,
    before: float,
) -> tuple[dict[str, float], np.ndarray]:
    """The mAP of a state and of its mixtures with the start, and the logits [N, C] of the best.

    `start` gives the variables before the first step, `before` is their loss. A state whose loss is
    higher does not count: over few positives mAP rises by chance, and a loss that hears all labels
    says so. Of mixtures that are equally good the best has the most of the start. There are no
    scores if no class has a positive.
    """
    logits = job.logits(state.variables, images)
    mean_ap = mean_ap_of(logits, split)
    if mean_ap is None:
        return {}, logits
    loss = job.loss(logits, split)
    scores = {VAL_MAP: mean_ap, VAL_LOSS: loss}
    counting = [(mean_ap, TRAINED, logits)] if loss <= before else []
    mixes = job.config.mix_with_start
    for mix in sorted(mixes, reverse=True) if int(state.step) else ():
        mixed = job.logits(mixture(start(), state.variables, mix, job.mesh), images)
        mean_ap = mean_ap_of(mixed, split)
        assert mean_ap is not None
        scores[f"{VAL_MAP}_{MIX}_{mix:g}"] = mean_ap
        if job.loss(mixed, split) <= before:
            counting.append((mean_ap, mix, mixed))
    if counting:
        scores[BEST], mix, logits = max(counting, key=lambda found: (found[0], -found[1]))
        scores |= {MIX: mix} if mixes else {}
    return scores, logits


def loss_before(run: RunDirectory) -> float:
    """The loss before the first step, for `score`; infinite if none is known, so that all count."""
    return next((line[VAL_LOSS] for line in run.read_metrics() if VAL_LOSS in line), np.inf)


def best_map(line: dict[str, Any]) -> float:
    """Of a line of metrics.jsonl that holds what `score` gave; below 0 if nothing counts.

    Earlier versions wrote no loss, and all of theirs count.
    """
    return line.get(BEST, -1.0 if VAL_LOSS in line else line[VAL_MAP])


def mix_of(line: dict[str, Any]) -> float:
    """The weight of the best mixture of such a line."""
    return line.get(MIX, TRAINED)


def chosen_on_val(run: RunDirectory, step: int) -> float:
    """The weight of the best mixture by val after `step` steps."""
    scored = (mix_of(line) for line in run.read_metrics() if line["step"] == step and MIX in line)
    return next(scored, TRAINED)
