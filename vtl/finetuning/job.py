"""One fine-tuning: the network, its steps, and a training that resumes.

The run and its trial on a held-out part of the training split are the same job on other photos.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vtl.console import say
from vtl.data.batches import Images
from vtl.data.split import Flags, Split, is_every
from vtl.evaluation import evaluate, metrics, one_label
from vtl.evaluation.outcome import MAP_PROTOCOL
from vtl.models import HEAD
from vtl.run_directory import RunDirectory
from vtl.training import choose_l2, fit_head, loop, losses, optim, steps
from vtl.training.checkpoint import Checkpoints
from vtl.training.fit_linear import Linear
from vtl.training.state import TrainState, by_batch, new_state, replicate
from vtl.weights import network
from vtl.weights.heads import Head

Evaluate = Callable[[TrainState], dict[str, float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What a config fine-tunes, and how; `given_head` is what head_from or head=keep names."""

    config: ConfigDict
    net: network.Network
    given_head: Head | None
    multipliers: optim.Multipliers
    mesh: Mesh
    objective: losses.Objective

    @property
    def starts_fitted(self) -> bool:
        """Whether the network is of use before it is trained."""
        return self.given_head is not None or self.config.head == "probe"

    @functools.cached_property
    def eval_step(self) -> steps.EvalStep:
        """Compiled once for all splits."""
        return steps.make_eval_step(self.net.model, self.net.preprocessing, self.mesh)

    @property
    def num_trainable(self) -> int:
        """How many parameters train."""
        params = network.shapes_of(self.net.model)["params"]
        return optim.count_trainable(self.multipliers, params)

    def predict(
        self, step: steps.EvalStep, variables: Any, images: Images
    ) -> tuple[np.ndarray, ...]:
        """The outputs [N, ...] of a step for all images."""
        return evaluate.predict(
            step,
            variables,
            images,
            batch_size=self.config.eval_batch_size,
            sharding=by_batch(self.mesh),
        )

    def logits(self, variables: Any, images: Images) -> np.ndarray:
        """[N, C]; logarithms of probabilities where images have one label each."""
        (logits,) = self.predict(self.eval_step, variables, images)
        return one_label.normalised(logits) if self.objective.has_one_label_each else logits

    def loss(self, logits: np.ndarray, split: Split) -> float:
        """The run's loss of logits [N, C] over the labels that would count in training."""
        counts = counted(split, self.config.data.difficult)
        arrays = (logits, np.asarray(split.labels), counts)
        return float(jax.jit(self.objective.loss)(*arrays))

    def mean_ap(self, variables: Any, images: Images, split: Split) -> float | None:
        """By `MAP_PROTOCOL`; None if no class has a positive."""
        return mean_ap_of(self.logits(variables, images), split)

    def plan(self, num_images: int) -> loop.Plan:
        """All passes of the config."""
        return loop.make_plan(
            self.config, num_images=num_images, num_epochs=self.config.num_epochs, mesh=self.mesh
        )

    def start(self, training_set: loop.TrainingSet) -> Callable[[], Any]:
        """What gives the variables before the first step, on the host; found when first called.

        The head is the given one, or one that is fitted, to the same photos always the same.
        """

        def find() -> Any:
            return jax.tree.map(np.asarray, self._first_variables(training_set))

        return functools.cache(find) if self.config.mix_with_start else find

    def train(
        self,
        start: Callable[[], Any],
        training_set: loop.TrainingSet,
        plan: loop.Plan,
        run_directory: RunDirectory,
        checkpoints: Checkpoints,
        score_epoch: Evaluate,
    ) -> tuple[TrainState, int | None]:
        """The state at the plan's end, and the step that the training was resumed from, if any.

        It begins with `start`, as `Job.start` gives it, if it isn't resumed.
        """
        optimizer = optim.make_optimizer(self.config.optim, plan.learning_rate, self.multipliers)
        train_step = steps.make_train_step(
            self.net.model,
            optimizer,
            self.multipliers,
            batch_norm=self.config.batch_norm,
            preprocessing=self.net.preprocessing,
            augmentation=self.config.augment,
            seed=self.config.seed,
            mesh=self.mesh,
            objective=self.objective,
        )

        def first_state() -> TrainState:
            return new_state(start(), optimizer)

        like = jax.eval_shape(lambda v: new_state(v, optimizer), network.shapes_of(self.net.model))
        state, resumed_from = loop.start(first_state, like, plan, run_directory, checkpoints)
        state = loop.run(
            state, train_step, training_set, plan, run_directory, checkpoints, score_epoch
        )
        return state, resumed_from

    def _first_variables(self, training_set: loop.TrainingSet) -> Any:
        config, net = self.config, self.net
        variables = network.starting_variables(
            net.model, net.weights, head=config.head, seed=config.seed
        )
        if self.given_head:
            variables["params"][HEAD] = self.given_head.params
        elif config.head == "probe":
            num_images = len(training_set.images)
            say(f"logistic regression on the features of {num_images} photos starts the head")
            seen = self._seen(variables, training_set.images)
            head, l2 = self.fit_head(*seen, training_set.labels, training_set.label_mask)
            if not config.head_l2:
                say(f"L2 by cross-validation: {choose_l2.describe(l2)}")
            variables["params"][HEAD] = {
                name: np.asarray(value) for name, value in head._asdict().items()
            }
        return variables

    def out_of_fold(self, training_set: loop.TrainingSet, groups: np.ndarray) -> np.ndarray:
        """As `logits`, of the photos of a training set by starts that didn't see them, [N, C].

        The start's head is fitted to some folds, and asked about the other; photos of one of the
        `groups` [N] are in one fold.
        """
        images, labels = training_set.images, np.asarray(training_set.labels)
        seen = *self.seen_by_head(images), labels, training_set.label_mask
        _, l2 = self.fit_head(*seen)
        one_label_each = self.objective.has_one_label_each
        logits = fit_head.out_of_fold(
            *seen, l2, groups=groups, seed=self.config.seed, one_label_each=one_label_each
        )
        return one_label.normalised(logits) if one_label_each else logits

    def seen_by_head(self, images: Images) -> tuple[np.ndarray, np.ndarray]:
        """What the head sees before anything trains: photos [N, D] and their cells [N, R, D]."""
        net, config = self.net, self.config
        variables = network.starting_variables(
            net.model, net.weights, head=config.head, seed=config.seed
        )
        return self._seen(variables, images)

    def fit_head(
        self, photos: np.ndarray, cells: np.ndarray, labels: Flags, label_mask: np.ndarray
    ) -> tuple[Linear, np.ndarray]:
        """The head that a training starts with, and the L2 of each class, as `fit_head.fit`."""
        return fit_head.fit(
            photos,
            cells,
            np.asarray(labels),
            label_mask,
            l2=self.config.head_l2,
            seed=self.config.seed,
            one_label_each=self.objective.has_one_label_each,
        )

    def logits_by(self, head: Linear, photos: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """As `logits`, by a fitted head of what it sees."""
        logits = fit_head.logits_by(head, photos, cells)
        return one_label.normalised(logits) if self.objective.has_one_label_each else logits

    def _seen(self, variables: Any, images: Images) -> tuple[np.ndarray, np.ndarray]:
        head_step = steps.make_head_step(self.net.model, self.net.preprocessing, self.mesh)
        photos, cells = self.predict(head_step, replicate(variables, self.mesh), images)
        return photos, cells


def training_set_of(images: Images, split: Split, difficult: str) -> loop.TrainingSet:
    """The split as `loop` trains on it; `difficult` labels may count in the loss or not."""
    return loop.TrainingSet(images, split.labels, counted(split, difficult))


def counted(split: Split, difficult: str) -> np.ndarray:
    """Which labels count in the loss, [N, C]."""
    if difficult == "ignore" and not is_every(split.difficult, 0):
        return split.label_mask * (1 - split.difficult)
    return split.label_mask


def mean_ap_of(logits: np.ndarray, split: Split) -> float | None:
    """The mAP of logits [N, C] by `MAP_PROTOCOL`; None if no class has a positive."""
    return metrics.mean_average_precision(
        logits,
        np.asarray(split.labels),
        split.difficult,
        split.classes,
        MAP_PROTOCOL,
        split.label_mask,
    )


def checkpoints_of(run: RunDirectory, best_by: str | None) -> Checkpoints:
    """Those of a run that has begun."""
    return Checkpoints(run.path / "checkpoints", best_by=best_by, run=run.run_id)
