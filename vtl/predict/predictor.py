"""A network and its photos -> probabilities and answers, batch by batch, in constant memory."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from vtl import decisions, dtypes, files, processes
from vtl.data import batches, images
from vtl.errors import UserError
from vtl.evaluation import one_label, outcome
from vtl.predict import shares
from vtl.predict.decoding import decoded_ahead, is_full
from vtl.predict.photos import Photo
from vtl.training import steps
from vtl.training.state import by_batch, make_mesh, replicate
from vtl.untrusted import printable, read_json
from vtl.weights import heads, network, sources

BATCH_SIZE = 32
"""Of networks that come with no config."""

MAX_BATCH_SIZE = 1 << 16
PRECISIONS = ("default", "high", "highest")


class Prediction(NamedTuple):
    """What a network says of a photo: probabilities and answers [C], or why it says nothing."""

    name: str
    probabilities: np.ndarray | None
    answers: np.ndarray | None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a run computed the scores of its test split."""

    batch_size: int = BATCH_SIZE
    precision: str = "default"
    dtype: str = "float32"
    decode: str = images.FAST


def settings_of(name_or_path: str) -> Settings:
    """Those of a run's config.json; of anything else the defaults.

    What says nothing of `decode` is of before that was a choice.
    """
    path = files.user_path(name_or_path) / "config.json"
    if name_or_path in sources.SOURCES or not path.is_file():
        return Settings()
    config = read_json(path, inside=path.parent)
    config = config if isinstance(config, dict) else {}
    model, data = config.get("model"), config.get("data") or _data_of_features(path.parent)
    settings = Settings(
        config.get("eval_batch_size", BATCH_SIZE),
        config.get("precision", "default"),
        model.get("dtype", "float32") if isinstance(model, dict) else "float32",
        data.get("decode", images.EXACT) if isinstance(data, dict) else images.EXACT,
    )
    is_possible = (
        type(settings.batch_size) is int
        and 1 <= settings.batch_size <= MAX_BATCH_SIZE
        and settings.precision in PRECISIONS
        and settings.dtype in dtypes.DTYPES
        and settings.decode in images.DECODE
    )
    if not is_possible:
        raise UserError(f"{printable(path)} is damaged: {printable(settings)}")
    return settings


def _data_of_features(run: Path) -> Any:
    """What a probe's results.json says of the photos of its features."""
    path = run / "results.json"
    results = read_json(path, inside=run) if path.is_file() else {}
    return results.get("data") if isinstance(results, dict) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """A network with a head, ready to look at photos.

    `model` and `variables` are as `network.as_published` gives them; the variables are on the mesh,
    which is of this process's devices.
    """

    weights: sources.Weights
    settings: Settings
    is_calibrated: bool
    model: Any
    variables: Any
    mesh: Mesh

    @classmethod
    def load(
        cls,
        name: str,
        *,
        trunk: str = "",
        uncalibrated: bool = False,
        decode: str = "",
        dtype: str = "",
    ) -> "Predictor":
        """The network that `heads.load_network` finds; its decisions give the probabilities.

        With `uncalibrated` they are the scores of its run instead. The answers stay the same.
        `decode` is one of `images.DECODE`, or "" for the run's; without a run that is fast. `dtype`
        is one of `dtypes.DTYPES`, or "auto", or "" for the run's; without a run that is float32.

        Raises:
            UserError: there is no such network, it is damaged, or it has no head.
        """
        weights = heads.load_network(name, trunk=trunk)
        if weights.architecture.num_classes is None:
            raise UserError(f"{printable(weights.path)} has no head, so it can't name classes")
        settings, mesh = settings_of(name), make_mesh(jax.local_devices())
        settings = dataclasses.replace(
            settings,
            decode=decode or settings.decode,
            dtype=dtypes.settled(dtype or settings.dtype),
        )
        model, variables = network.as_published(weights)
        return cls(
            weights,
            settings,
            is_calibrated=weights.decisions is not None and not uncalibrated,
            model=model.clone(dtype=dtypes.DTYPES[settings.dtype]),
            variables=replicate(variables, mesh),
            mesh=mesh,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its C classes."""
        return sources.class_names(self.weights)

    @property
    def batch_size(self) -> int:
        """Its run's, made up to a multiple of the devices."""
        return self._multiple(self.settings.batch_size)

    def _multiple(self, size: int) -> int:
        return -(-size // self.mesh.size) * self.mesh.size

    @functools.cached_property
    def _eval_step(self) -> steps.EvalStep:
        return steps.make_eval_step(self.model, self.weights.preprocessing, self.mesh)

    def decode(self, path: Path) -> np.ndarray:
        """A photo as its run's photos were stored, uint8 [S, S, 3]."""
        preprocessing = self.weights.preprocessing
        return images.load_resized(
            path,
            preprocessing.stored_size(crops=False),
            preprocessing.resize,
            preprocessing.interpolation,
            self.settings.decode,
        )

    def run(
        self, step: steps.EvalStep, pixels: list[np.ndarray], batch_size: int
    ) -> tuple[np.ndarray, ...]:
        """The outputs of a step for at most a batch of photos; copies of the first one pad it."""
        batch = np.stack(pixels + [pixels[0]] * (batch_size - len(pixels)))
        with jax.default_matmul_precision(self.settings.precision):
            outputs = step(
                self.variables, batches.place(batch, np.arange(batch_size), by_batch(self.mesh))
            )
        return tuple(np.asarray(output)[: len(pixels)] for output in outputs)

    def judge(self, pixels: list[np.ndarray], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities, float32, and answers, bool, [N, C] each, of N photos."""
        (logits,) = self.run(self._eval_step, pixels, batch_size)
        one_label_each = not self.weights.multi_label
        if one_label_each:
            logits = one_label.normalised(logits)
        scores = judged = outcome.scores_of(logits, one_label_each=one_label_each)
        if made := self.weights.decisions:
            judged = decisions.probabilities(logits, made, one_label_each=one_label_each)
        answers = decisions.answers(judged, made, one_label_each=one_label_each)
        return (judged if self.is_calibrated else scores), answers

    def predict(
        self, photos: Iterable[Photo], batch_size: int | None = None
    ) -> Iterator[list[Prediction]]:
        """The predictions of all photos in their order, a batch of legible ones at a time."""
        size = self._multiple(batch_size or self.settings.batch_size)
        if processes.count() > 1:
            yield from self._predict_together(photos, size)
            return
        waiting: list[tuple[Photo, np.ndarray | str]] = []
        num_legible = 0
        for photo, pixels in decoded_ahead(photos, self.decode, ahead=size):
            waiting.append((photo, pixels))
            num_legible += not isinstance(pixels, str)
            if is_full(len(waiting), num_legible, size):
                yield self._predictions(waiting, size)
                waiting, num_legible = [], 0
        if waiting:
            yield self._predictions(waiting, size)

    def _predict_together(self, photos: Iterable[Photo], size: int) -> Iterator[list[Prediction]]:
        """As `predict`, with the batches shared out: all processes have all predictions."""
        own = {"weights": self.weights.sha256, "batch size": size}
        own |= dataclasses.asdict(self.settings) | {"calibrated": self.is_calibrated}
        processes.check_same("networks", own)
        shape = size, len(self.classes)
        for batches_of_round in shares.rounds(photos, size, self.decode):
            judged = np.zeros(shape, np.float32), np.zeros(shape, bool)
            for batch in batches_of_round:
                if batch.process == processes.index():
                    pixels = shares.pixels(batch)
                    for all_rows, rows in zip(judged, self.judge(pixels, size), strict=True):
                        all_rows[: len(pixels)] = rows
            probabilities, answers = processes.all_gather(judged)
            for batch in batches_of_round:
                owner = batch.process or 0
                its = zip(probabilities[owner], answers[owner], strict=True)
                yield _told(zip(batch.photos, batch.problems, strict=True), its)

    def _predictions(
        self, photos: list[tuple[Photo, np.ndarray | str]], size: int
    ) -> list[Prediction]:
        pixels = [each for _, each in photos if not isinstance(each, str)]
        judged = iter(zip(*self.judge(pixels, size), strict=True) if pixels else ())
        problems = [(photo, each if isinstance(each, str) else "") for photo, each in photos]
        return _told(problems, judged)


def _told(
    photos: Iterable[tuple[Photo, str]], judged: Iterator[tuple[np.ndarray, np.ndarray]]
) -> list[Prediction]:
    """The predictions of photos with what is wrong with each, and what was judged of the others."""
    found = []
    for photo, problem in photos:
        if problem:
            found.append(Prediction(photo.name, None, None, problem))
            continue
        probabilities, answers = next(judged)
        if np.isfinite(probabilities).all():
            found.append(Prediction(photo.name, probabilities, answers))
        else:
            problem = "the network's output for it is not finite"
            found.append(Prediction(photo.name, None, None, problem))
    return found
