import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs.finetune import get_config
from tests.devices import environment
from vtl.models.resnet import ResNet
from vtl.preprocessing import Preprocessing, normalise
from vtl.training import optim, steps
from vtl.training.augment import augment
from vtl.training.state import TrainState, by_batch, make_mesh, replicated

NUM_CLASSES = 3
BATCH_SIZE = 8
PREPROCESSING = Preprocessing(resize_size=36, crop_size=32)
MESH = make_mesh()
MODEL = ResNet(NUM_CLASSES, depth=18, width=0.125)
ALL = ((".*", 1.0),)
PARTIAL = (("fc/.*", 1.0), ("layer4_.*", 1.0), (".*", None))
OPTIONS = {"learning_rate": 0.05, "weight_decay": 0.01, "clip_norm": 1.0, "schedule": "constant"}


@functools.cache
def variables():
    """Variables with running averages off their start, and scales at which every block counts."""
    init = jax.jit(
        lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), norms_by_batch=())
    )
    tree = init()
    rng = np.random.default_rng(0)
    batch_stats = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.1, leaf.shape).astype(np.float32), tree["batch_stats"]
    )
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: rng.uniform(0.5, 1, leaf.shape) if path[-1].key == "scale" else leaf,
        tree["params"],
    )
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
    return jax.device_get({"params": params, "batch_stats": batch_stats})


def make_batch(seed=0, size=36):
    rng = np.random.default_rng(seed)
    shape = (BATCH_SIZE, NUM_CLASSES)
    arrays = {
        "images": rng.integers(0, 256, (BATCH_SIZE, size, size, 3), np.uint8),
        "labels": rng.integers(0, 2, shape, np.uint8),
        "label_mask": (rng.random(shape) < 0.7).astype(np.uint8),
    }
    return place(arrays)


def place(arrays):
    return {name: jax.device_put(np.asarray(a), by_batch(MESH)) for name, a in arrays.items()}


@functools.cache
def make_step(rules, batch_norm, augmentation="crop_flip"):
    """The optimiser and the compiled step; cached, because a compilation takes seconds."""
    config = get_config().optim
    config.update(OPTIONS)
    multipliers = optim.resolve_rules(rules, variables()["params"])
    optimizer = optim.make_optimizer(config, optim.make_schedule(config, 10), multipliers)
    step = steps.make_train_step(
        MODEL,
        optimizer,
        multipliers,
        batch_norm=batch_norm,
        preprocessing=PREPROCESSING,
        augmentation=augmentation,
        seed=0,
        mesh=MESH,
    )
    return optimizer, step.lower(new_state(optimizer), make_batch()).compile()


def new_state(optimizer, step=0):
    """A state with arrays of its own, because a step donates them."""
    params, batch_stats = variables()["params"], variables()["batch_stats"]
    state = TrainState(np.int32(step), params, batch_stats, optimizer.init(params))
    return jax.device_put(jax.tree.map(np.array, state), replicated(MESH))


def flatten(tree):
    return {p: np.asarray(a) for p, a in traverse_util.flatten_dict(tree, sep="/").items()}


def moved(before, after):
    """The paths whose arrays are no longer bit-identical."""
    before, after = flatten(before), flatten(after)
    return {path for path in before if before[path].tobytes() != after[path].tobytes()}


def trains(path):
    return path.startswith(("fc/", "layer4_"))


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
def test_what_is_frozen_stays_bit_identical_and_all_else_moves(batch_norm):
    optimizer, step = make_step(PARTIAL, batch_norm)
    state = new_state(optimizer)
    for seed in range(3):
        state, _ = step(state, make_batch(seed))
    params, batch_stats = variables()["params"], variables()["batch_stats"]
    assert moved(params, state.params) == {path for path in flatten(params) if trains(path)}
    stats = {path for path in flatten(batch_stats) if trains(path)}
    assert len(stats) == 2 * 5
    assert moved(batch_stats, state.batch_stats) == (stats if batch_norm == "batch" else set())
    assert int(state.step) == 3


@pytest.mark.full
def test_batch_norm_moves_every_statistic_if_all_trains():
    optimizer, step = make_step(ALL, "batch")
    state, _ = step(new_state(optimizer), make_batch())
    batch_stats = variables()["batch_stats"]
    assert moved(batch_stats, state.batch_stats) == set(flatten(batch_stats))
    assert moved(variables()["params"], state.params) == set(flatten(variables()["params"]))


def test_freezing_saves_the_gradients_of_what_is_frozen():
    def count_flops(rules, *options):
        _, step = make_step(rules, *options)
        return step.cost_analysis()["flops"]

    # The forward pass is a third of all, and layer4, at 1x1 pixel, a small part of the rest.
    partial, full = count_flops(PARTIAL, "frozen"), count_flops(ALL, "frozen", "none")
    assert partial < 0.6 * full


def test_a_step_is_the_gradient_of_the_loss_and_the_optimiser():
    optimizer, step = make_step(ALL, "frozen", "none")
    batch = make_batch()
    state, metrics = step(new_state(optimizer), batch)
    images = normalise(batch["images"][:, 2:34, 2:34], PREPROCESSING)
    labels, label_mask = (np.asarray(batch[name], np.float32) for name in ("labels", "label_mask"))

    @jax.jit
    def apply(start):
        def loss_fn(params):
            trees = {"params": params, "batch_stats": start.batch_stats}
            logits, _ = MODEL.apply(trees, images, norms_by_batch=())
            losses = optax.sigmoid_binary_cross_entropy(logits, labels)
            return jnp.sum(losses * label_mask) / jnp.sum(label_mask), logits

        (loss, logits), grads = jax.value_and_grad(loss_fn, has_aux=True)(start.params)
        updates, _ = optimizer.update(grads, start.opt_state, start.params)
        return loss, logits, optax.apply_updates(start.params, updates)

    loss, logits, params = apply(new_state(optimizer))
    expected = flatten(params)
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics["binary_accuracy"]) == pytest.approx(
        np.mean(((np.asarray(logits) > 0) == labels)[label_mask == 1]), abs=1e-6
    )
    for path, leaf in flatten(state.params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-6, err_msg=path)


def test_augmentation_is_a_function_of_seed_and_step():
    optimizer, step = make_step(PARTIAL, "frozen")
    batch = make_batch()
    (first, loss), (again, same_loss), (_, other_loss) = (
        step(new_state(optimizer, step=at), batch) for at in (4, 4, 5)
    )
    assert moved(first.params, again.params) == set()
    assert float(loss["loss"]) == float(same_loss["loss"])
    assert float(loss["loss"]) != float(other_loss["loss"])


def test_the_step_sees_the_crops_of_its_key():
    optimizer, step = make_step(PARTIAL, "frozen")
    uncropped_optimizer, uncropped_step = make_step(ALL, "frozen", "none")
    batch = make_batch()
    _, metrics = step(new_state(optimizer, step=7), batch)
    key = jax.random.fold_in(jax.random.key(0), 7)
    crops = augment(key, jnp.asarray(batch["images"]), kind="crop_flip", size=32)
    cropped = batch | place({"images": np.pad(crops, ((0, 0), (2, 2), (2, 2), (0, 0)))})
    _, expected = uncropped_step(new_state(uncropped_optimizer), cropped)
    assert float(metrics["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)


def test_labels_that_do_not_count_teach_nothing():
    optimizer, step = make_step(PARTIAL, "frozen")
    batch = make_batch()
    flipped = batch | {
        "labels": jnp.where(batch["label_mask"], batch["labels"], 1 - batch["labels"])
    }
    label_mask = jnp.ones_like(batch["label_mask"])
    (state, metrics), (same, same_metrics), (other, _) = (
        step(new_state(optimizer), place(b))
        for b in (batch, flipped, flipped | {"label_mask": label_mask})
    )
    assert moved(state.params, same.params) == set()
    assert float(metrics["loss"]) == float(same_metrics["loss"])
    assert moved(state.params, other.params) == {
        path for path in flatten(state.params) if trains(path)
    }


def test_evaluation_is_the_centre_crop_by_running_averages():
    images = np.asarray(make_batch()["images"])
    eval_step = steps.make_eval_step(MODEL, PREPROCESSING, MESH)
    (logits,) = eval_step(variables(), images)
    photos, cells = steps.make_head_step(MODEL, PREPROCESSING, MESH)(variables(), images)
    pixels = (images[:, 2:34, 2:34] / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    apply = jax.jit(functools.partial(MODEL.apply, norms_by_batch=()))
    expected_logits, outputs = apply(variables(), pixels.astype(np.float32))
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(photos, outputs["features"], rtol=1e-4, atol=1e-5)
    assert cells.shape == (len(images), 0, photos.shape[1])


def run_two_steps():
    """The losses of two steps with the global batch's statistics, and the variables after them."""
    optimizer, step = make_step(ALL, "batch")
    state, losses = new_state(optimizer), []
    for seed in range(2):
        state, metrics = step(state, make_batch(seed))
        losses.append(float(metrics["loss"]))
    return losses, flatten(state.variables)


@pytest.mark.full
def test_eight_devices_train_as_one(tmp_path: Path):
    script = f"""
import jax, numpy as np
from tests.training.test_steps import run_two_steps
assert jax.device_count() == 8
losses, arrays = run_two_steps()
np.savez({str(tmp_path / "eight.npz")!r}, losses=losses, **arrays)
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], env=environment(8), cwd=root, check=True)
    eight = np.load(tmp_path / "eight.npz")
    losses, arrays = run_two_steps()
    np.testing.assert_allclose(eight["losses"], losses, rtol=1e-5)
    for path, array in arrays.items():
        np.testing.assert_allclose(eight[path], array, rtol=1e-3, atol=1e-5, err_msg=path)
