import csv
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss

from configs.linear_probe import get_config
from vtl import decisions
from vtl.data import deep_features, duplicates, split, voc
from vtl.errors import UserError
from vtl.models import head
from vtl.preprocessing import LAB, TORCHVISION
from vtl.tasks import probe
from vtl.training import fit_linear, losses
from vtl.weights import formats, heads, metadata

NUM_FEATURES, NUM_CLASSES = 12, 20
# Newton's method reaches scikit-learn's minimum in a thirtieth of its default's time.
EXACT = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000}


def make_arrays(seed=0, num_train=60, num_test=40):
    """Features, and labels that are a noisy linear function of them, under the lab's four keys."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(NUM_FEATURES, NUM_CLASSES))
    arrays = {}
    for role, rows in (("train", num_train), ("test", num_test)):
        features = np.abs(rng.normal(size=(rows, NUM_FEATURES)))
        logits = (features - features.mean(axis=0)) @ direction
        arrays[f"X_{role}"] = features
        arrays[f"Y_{role}"] = (logits + rng.normal(size=logits.shape) > 1).astype(np.float64)
    return arrays


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def run(path, workdir, variant="", **changes):
    config = get_config(variant)
    config.update_from_flattened_dict({"features": str(path)} | changes)
    probe.run(config.lock(), workdir)
    return json.loads((workdir / "results.json").read_text())


def one_label_arrays(stated=True, seed=0):
    """Of three classes, one a photo, 90 to train on and 40 to test on, as `features` writes it."""
    rng = np.random.default_rng(seed)
    centres, arrays = rng.normal(size=(3, NUM_FEATURES)), {}
    for role, count in (("train", 90), ("test", 40)):
        truth = rng.choice(3, count, p=[0.7, 0.2, 0.1])
        arrays[f"X_{role}"] = np.abs(centres[truth] + rng.normal(size=(count, NUM_FEATURES)))
        arrays[f"Y_{role}"] = np.eye(3)[truth]
        arrays[f"difficult_{role}"] = np.zeros((count, 3), np.uint8)
    meta = {"data": {"one_label_each": True}} if stated else {}
    return arrays | {"classes": np.array(["a", "b", "c"]), "meta": np.array(json.dumps(meta))}


def narrow(num_channels):
    """What a head asks of a network, of any width."""
    return SimpleNamespace(num_channels=num_channels, stages=("layer4",), poolings=head.POOLINGS)


def load_head(workdir, classes, num_features=NUM_FEATURES, sha256="any"):
    return heads.load(
        workdir,
        classes=tuple(classes),
        weights_sha256=sha256,
        architecture=narrow(num_features),
        preprocessing=TORCHVISION,
    ).params


def test_the_labs_own_file(tmp_path):
    arrays = make_arrays()
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run")
    assert results["status"] == "finished"
    assert set(results["not_computable"]["test"]) == {"voc2007", "voc2010"}
    scores = np.load(tmp_path / "run" / "scores_test.npz")
    assert "difficult" not in scores
    aps = [
        average_precision_score(arrays["Y_test"][:, c], scores["scores"][:, c])
        for c in range(NUM_CLASSES)
        if arrays["Y_test"][:, c].any()
    ]
    assert results["map"]["test"]["lab"] == pytest.approx(np.mean(aps), abs=1e-6)
    expected = log_loss(arrays["Y_test"].ravel(), scores["scores"].ravel().astype(np.float64))
    assert results["loss"]["test"] == pytest.approx(expected, rel=1e-6)
    head = load_head(tmp_path / "run", results["classes"])
    logits = arrays["X_test"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores["scores"], atol=1e-5)


@pytest.mark.parity
def test_sgd_follows_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = make_arrays()
    features, labels = (arrays[k].astype(np.float32) for k in ("X_train", "Y_train"))
    start, order = fit_linear.seeded(
        (60, NUM_FEATURES), NUM_CLASSES, num_epochs=7, batch_size=8, seed=0
    )
    head, losses = fit_linear.sgd(
        features,
        labels,
        np.ones_like(labels),
        order[None],
        fit_linear.Linear(start.kernel[None], start.bias[None]),
        np.array([0.1], np.float32),
        np.array([0.01], np.float32),
        momentum=0.9,
    )
    linear = torch.nn.Linear(NUM_FEATURES, NUM_CLASSES)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(np.array(start.kernel.T)))
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    theirs = []
    for rows in order:
        logits, targets = linear(torch.tensor(features[rows])), torch.tensor(labels[rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(losses[0], theirs, rtol=1e-4)
    np.testing.assert_allclose(head.kernel[0].T, linear.weight.detach().numpy(), atol=1e-4)


@pytest.mark.full
def test_lbfgs_chooses_l2_on_train_and_reaches_scikit_learns_minimum(tmp_path):
    arrays = make_arrays()
    path = write(tmp_path / "f.npz", arrays)
    plain = {"l2s": (0.01, 1.0), "transform": "none"}
    results = run(path, tmp_path / "run", "lbfgs", **plain)
    steps = np.log(list(results["l2"].values())) / np.log(100)  # the grid goes on by its own ratio
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
    head = load_head(tmp_path / "run", results["classes"])
    features, labels = arrays["X_train"], arrays["Y_train"]
    for c, l2 in enumerate(results["l2"].values()):
        if not labels[:, c].any():
            continue
        reference = LogisticRegression(C=1 / (l2 * len(features)), **EXACT)
        reference.fit(features, labels[:, c])

        def objective(kernel, bias, y=labels[:, c], l2=l2):
            logits = features @ kernel + bias
            return np.mean(np.logaddexp(0, logits) - y * logits) + l2 / 2 * np.sum(kernel**2)

        theirs = objective(reference.coef_[0], reference.intercept_[0])
        assert objective(head["kernel"][:, c], head["bias"][c]) <= theirs * (1 + 1e-4)
    # Test rows decide nothing: with other ones the choice is the same.
    other = make_arrays(seed=1)
    mixed = arrays | {key: other[key] for key in ("X_test", "Y_test")}
    again = run(write(tmp_path / "g.npz", mixed), tmp_path / "again", "lbfgs", **plain)
    assert again["l2"] == results["l2"]


@pytest.mark.full
def test_a_grid_with_seeds_trains_at_once_and_records_each(tmp_path):
    path = write(tmp_path / "f.npz", make_arrays(num_train=200))
    changes = {"learning_rates": (1e-6, 0.3), "num_seeds": 3}
    results = run(path, tmp_path / "run", **changes)
    assert results["learning_rate"] == 0.3
    assert list(results["map_lab_by_seed"]) == ["0", "1", "2"]
    assert results["map_lab_by_seed"]["0"] == pytest.approx(results["map"]["test"]["lab"])
    alone = run(path, tmp_path / "alone", learning_rates=(0.3,), seed=1)
    expected = results["map_lab_by_seed"]["1"]
    assert alone["map"]["test"]["lab"] == pytest.approx(expected, abs=1e-6)


def test_a_standardised_head_is_saved_for_the_unscaled_features(tmp_path):
    arrays = make_arrays(num_train=700)
    # Constant in train, though float32's sum of it is not exact: it must get no weight, whatever it
    # is in test.
    arrays["X_train"][:, 3] = 0.1
    arrays["X_test"][:, 3] = np.linspace(0, 1, 40)
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", transform="standardise")
    head = load_head(tmp_path / "run", results["classes"])
    logits = arrays["X_test"] @ head["kernel"] + head["bias"]
    scores = np.load(tmp_path / "run" / "scores_test.npz")["scores"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)
    without = arrays | {"X_test": np.where(np.arange(NUM_FEATURES) == 3, 0.1, arrays["X_test"])}
    again = run(write(tmp_path / "g.npz", without), tmp_path / "again", scaling="standardise")
    # The difference is what a random start leaves.
    assert again["loss"]["test"] == pytest.approx(results["loss"]["test"], rel=0.3)


def test_l2_ignores_the_length_of_a_row(tmp_path):
    arrays = make_arrays()
    run(write(tmp_path / "f.npz", arrays), tmp_path / "run", transform="l2")
    arrays["X_test"] = arrays["X_test"] * np.linspace(0.1, 10, 40)[:, None]
    run(write(tmp_path / "g.npz", arrays), tmp_path / "longer", scaling="l2")
    one, other = (
        np.load(tmp_path / name / "scores_test.npz")["scores"] for name in ("run", "longer")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    head = heads.load(
        tmp_path / "run",
        classes=voc.CLASSES,
        weights_sha256="any",
        architecture=narrow(NUM_FEATURES),
        preprocessing=TORCHVISION,
    )
    assert head.transform == "l2"
    rows = arrays["X_test"] / np.linalg.norm(arrays["X_test"], axis=1, keepdims=True)
    logits = rows @ head.params["kernel"] + head.params["bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), one, atol=1e-5)


@pytest.mark.full
def test_classes_without_positives_are_named(tmp_path):
    arrays = make_arrays()
    arrays["Y_train"][:, 0] = 0
    arrays["Y_test"][:, 1] = 0
    arrays["Y_train"][:, 2] = arrays["Y_test"][:, 2] = 0
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", "lbfgs", l2s=(0.01,))
    assert {"aeroplane", "bird"} <= set(results["without_positives"]["train"])
    assert {"bicycle", "bird"} <= set(results["without_positives"]["test"])
    assert results["ap"]["test"]["lab"]["bird"] is None


def test_one_image(tmp_path):
    arrays = make_arrays(num_train=1, num_test=1)
    assert run(write(tmp_path / "f.npz", arrays), tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize(
    ("option", "value", "made_with"),
    [
        ("train_split", "train", "trainval"),
        ("test_split", "val", "test"),
        ("weights", "keras_v1", "mine"),
        ("classes", ("a", "b"), "aeroplane"),
    ],
)
def test_features_of_something_else_are_refused(tmp_path, option, value, made_with):
    meta = {
        "data": {"splits": {"train": "trainval", "test": "test"}},
        "weights": {"name": "mine", "sha256": "0" * 64},
    }
    path = write(tmp_path / "f.npz", make_arrays() | {"meta": np.array(json.dumps(meta))})
    with pytest.raises(UserError) as caught:
        run(path, tmp_path / "run", **{option: value})
    made, asked = str(caught.value).splitlines()
    assert str(path) in made
    assert made_with in made
    assert f"{option}={value}" in asked
    assert not (tmp_path / "run").exists()


def break_nan(arrays):
    arrays["X_train"][5, 2] = np.nan


def break_rows(arrays):
    arrays["Y_test"] = arrays["Y_test"][:-1]


def break_ids(arrays):
    arrays["ids_train"] = np.array(["a", "b"])


def break_keys(arrays):
    del arrays["Y_train"]


def break_width(arrays):
    arrays["X_test"] = arrays["X_test"][:, :-1]


def break_classes(arrays):
    arrays["Y_test"] = arrays["Y_test"][:, :-1]


def break_difficult(arrays):
    arrays["difficult_train"] = np.zeros(60)


def break_meta(arrays):
    arrays["meta"] = np.array("{")


def break_labels(arrays):
    arrays["Y_train"][0, 0] = -1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nan, "X_train has NaN or infinity in 1 of 60 rows; the first is row 5"),
        (break_rows, "Y_test has 39 rows, but X_test has 40"),
        (break_ids, "ids_train has 2 rows, but X_train has 60"),
        (break_keys, "lacks Y_train"),
        (
            break_width,
            r"X_test \(40, 11\) and Y_test \(40, 20\) must be as wide as X_train.* 12 and 20",
        ),
        (
            break_classes,
            r"X_test \(40, 12\) and Y_test \(40, 19\) must be as wide as X_train.* 12 and 20",
        ),
        (break_difficult, r"'difficult_train' has the shape \[60\] and should have \[60, 20\]"),
        (break_meta, r"'meta' is no JSON: Expecting property name"),
        (break_labels, "'Y_train' holds other values than 0 and 1, such as -1"),
    ],
)
def test_damaged_features(tmp_path, damage, message):
    arrays = make_arrays()
    damage(arrays)
    with pytest.raises(UserError, match=message) as caught:
        deep_features.read(write(tmp_path / "f.npz", arrays))
    assert len(str(caught.value).splitlines()) <= 3


def test_rows_permuted_against_their_ids(tmp_path):
    ids = np.array([f"{i:06d}" for i in range(60)])
    meta = {"data": {"ids_sha256": {"train": split.ids_sha256(ids)}}}
    arrays = make_arrays() | {"ids_train": ids, "meta": np.array(json.dumps(meta))}
    assert deep_features.read(write(tmp_path / "f.npz", arrays)).splits["train"].ids == tuple(ids)
    with pytest.raises(UserError, match="ids_train are not the ids of the split"):
        deep_features.read(write(tmp_path / "g.npz", arrays | {"ids_train": ids[::-1]}))


def test_no_file_and_no_npz(tmp_path):
    with pytest.raises(UserError, match="no such file; `vtl deep_features` makes one"):
        deep_features.read(tmp_path / "f.npz")
    np.save(tmp_path / "f.npy", np.ones(3))
    with pytest.raises(UserError, match=r"holds a single array and is no \.npz"):
        deep_features.read(tmp_path / "f.npy")
    (tmp_path / "f.npz").write_text("hello")
    with pytest.raises(UserError, match=r"f\.npz can't be read: File is not a zip file"):
        deep_features.read(tmp_path / "f.npz")


def test_a_head_for_something_else_is_refused(tmp_path, caplog):
    kernel, bias = np.ones((4, 2), np.float32), np.zeros(2, np.float32)
    preprocessing = json.loads(json.dumps(dataclasses.asdict(TORCHVISION)))
    meta = {"weights": {"sha256": "1234567890", "preprocessing": preprocessing}}
    heads.save(tmp_path, kernel, bias, classes=("a", "b"), features=meta)
    with pytest.raises(UserError, match="other classes"):
        load_head(tmp_path, "ac", 4, "1234567890")
    with pytest.raises(UserError, match="other weights"):
        load_head(tmp_path, "ab", 4, "0987654321")
    with pytest.raises(UserError, match="no finished probe there"):
        load_head(tmp_path / "nowhere", "ab", 4)
    with pytest.raises(UserError, match=r"are 4 numbers of layer4 .* takes the 2048 of layer4"):
        load_head(tmp_path, "ab", 2048, "1234567890")
    loaded = load_head(tmp_path, "ab", 4, "1234567890")
    np.testing.assert_array_equal(loaded["kernel"], kernel)
    assert not caplog.records
    meta["weights"]["preprocessing"] = json.loads(json.dumps(dataclasses.asdict(LAB)))
    heads.save(tmp_path, kernel, bias, classes=("a", "b"), features=meta)
    load_head(tmp_path, "ab", 4, "1234567890")
    assert "other preprocessing" in caplog.text
    # As wide as another layer's by chance.
    heads.save(tmp_path, kernel, bias, classes=("a", "b"), features={"layer": "layer2", "pool": 2})
    with pytest.raises(UserError, match=r"4 numbers of layer2 with pool=2"):
        load_head(tmp_path, "ab", 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"solver": "adam"}, "solver is 'adam': choose one of sgd"),
        ({"transform": "max"}, "transform is 'max': choose one of none"),
        ({"scaling": "max"}, "transform is 'max': choose one of none"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_epochs": -5.0}, r"num_epochs must be at least 0, got -5\.0"),
        ({"num_epochs": 0.0}, "num_epochs must be above 0"),
        ({"loss": "hinge"}, "loss is 'hinge': choose one of"),
        ({"class_weights": "rare"}, "class_weights is 'rare': choose one of none, balanced"),
        ({"loss": "softmax_ce"}, "loss=softmax_ce is for photos with one label each"),
        (
            {"solver": "lbfgs", "loss": "focal"},
            "^solver=lbfgs takes loss=sigmoid_bce or softmax_ce; solver=sgd takes focal too$",
        ),
        ({"num_seeds": 0}, "num_seeds must be at least 1, got 0"),
        ({"num_folds": 1}, "num_folds must be at least 2, got 1"),
        ({"l2s": ()}, "l2s must not be empty"),
        ({"learning_rates": ()}, "learning_rates must not be empty"),
        (
            {"difficult": "ignore"},
            "(?s)difficult=ignore: .* no difficult flags.*difficult=negative",
        ),
        ({"features": ""}, "no features: name a file"),
    ],
)
def test_bad_options_leave_nothing_behind(tmp_path, changes, message):
    path = write(tmp_path / "f.npz", make_arrays())
    with pytest.raises(UserError, match=message):
        run(path, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_features_made_anew_are_another_run(tmp_path, capsys):
    path = write(tmp_path / "f.npz", make_arrays())
    run(path, tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()
    path.rename(tmp_path / "moved.npz")
    run(tmp_path / "moved.npz", tmp_path / "run")
    assert "is finished" in capsys.readouterr().out
    write(path, make_arrays(seed=1))
    with pytest.raises(UserError, match="was begun with other features than are there now"):
        run(path, tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_scores_that_were_changed_since_are_not_shown(tmp_path):
    path = write(tmp_path / "f.npz", make_arrays())
    run(path, tmp_path / "run")
    scores = tmp_path / "run" / "scores_test.npz"
    scores.write_bytes(scores.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match=r"scores_test\.npz is not what the run wrote"):
        run(path, tmp_path / "run")


def test_difficult_labels_may_be_left_out(tmp_path):
    """Difficult labels teach nothing: with others in their place the head is the same."""
    arrays = make_arrays()
    difficult = np.random.default_rng(1).random((60, NUM_CLASSES)) < 0.2
    arrays |= {"difficult_train": difficult, "difficult_test": np.zeros((40, NUM_CLASSES), bool)}
    flipped = arrays | {"Y_train": np.where(difficult, 1 - arrays["Y_train"], arrays["Y_train"])}
    scores = []
    for number, content in enumerate((arrays, flipped)):
        path = write(tmp_path / f"{number}.npz", content)
        for difficult_as in ("ignore", "negative"):
            workdir = tmp_path / f"{number}_{difficult_as}"
            run(path, workdir, difficult=difficult_as)
            scores.append(np.load(workdir / "scores_test.npz")["scores"])
    np.testing.assert_array_equal(scores[0], scores[2])
    assert np.abs(scores[1] - scores[3]).max() > 1e-3


def test_a_diverged_point_of_a_grid_is_not_chosen(tmp_path):
    path = write(tmp_path / "f.npz", make_arrays())
    results = run(path, tmp_path / "run", weight_decays=(1e6, 0.0))
    assert results["weight_decay"] == 0
    with pytest.raises(UserError, match=r"(?s)all diverged.*smaller learning_rates"):
        run(path, tmp_path / "all", weight_decays=(1e6, 1e7))
    with pytest.raises(UserError, match=r"the loss diverged at learning rate 0\.1, decay 1e"):
        run(path, tmp_path / "one", weight_decays=(1e6,))


def test_a_grid_needs_a_photo_to_choose_by(tmp_path):
    path = write(tmp_path / "f.npz", make_arrays(num_train=1))
    with pytest.raises(UserError, match=r"one photo .* one of learning_rates"):
        run(path, tmp_path / "run", learning_rates=(0.1, 0.2))


@pytest.mark.full
def test_l2_is_the_one_of_scikit_learns_cross_validation(tmp_path):
    arrays = make_arrays(num_train=120)
    l2s = (0.001, 0.01, 0.1, 1.0)
    plain = {"l2s": l2s, "transform": "none"}
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", "lbfgs", **plain)
    folds = np.random.default_rng(0).permutation(120) % 5
    features, labels = arrays["X_train"], arrays["Y_train"]

    def held_out_loss(labels, l2):
        total = 0.0
        for fold in range(5):
            inside, out = folds != fold, folds == fold
            reference = LogisticRegression(C=1 / (l2 * 120), **EXACT)
            reference.fit(features[inside], labels[inside])
            probabilities = reference.predict_proba(features[out])[:, 1]
            total += log_loss(labels[out], probabilities, labels=[0, 1]) * out.sum()
        return total

    chosen = list(results["l2"].values())
    assert len(set(chosen)) > 1
    for c, l2 in enumerate(chosen):
        if min(labels[folds != fold, c].sum() for fold in range(5)) == 0:
            continue
        least = min(held_out_loss(labels[:, c], value) for value in l2s)
        assert held_out_loss(labels[:, c], l2) <= least * (1 + 2e-3), c


def test_saturated_scores_are_ranked_by_their_logits(tmp_path):
    """Features on a large scale: most scores are exactly 0 or 1, and positives first in the file
    gain nothing by it."""
    rng = np.random.default_rng(0)
    arrays = {}
    for role in ("train", "test"):
        labels = np.sort(rng.random((200, 2)) < 0.5, axis=0)[::-1].astype(np.float32)
        features = rng.normal(size=(200, 8)) + labels @ np.eye(2, 8)
        arrays |= {f"X_{role}": 300 * features + 2000, f"Y_{role}": labels}
        arrays |= {f"difficult_{role}": np.zeros((200, 2), np.uint8)}
    changes = {"learning_rates": (0.001,), "num_epochs": 5.0}
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", **changes)
    with np.load(tmp_path / "run" / "scores_test.npz") as file:
        scores, logits = file["scores"], file["logits"]
    assert np.mean((scores == 0) | (scores == 1)) > 0.9
    assert len(np.unique(logits)) > 390
    for column, name in enumerate(results["classes"]):
        ap = average_precision_score(arrays["Y_test"][:, column], logits[:, column])
        assert results["ap"]["test"]["lab"][name] == pytest.approx(ap, abs=1e-9)
    backwards = arrays | {key: arrays[key][::-1] for key in ("X_test", "Y_test")}
    again = run(write(tmp_path / "g.npz", backwards), tmp_path / "again", **changes)
    assert again["map"]["test"] == {
        name: pytest.approx(of, abs=0.01) for name, of in results["map"]["test"].items()
    }


@pytest.mark.parametrize("variant", ["", "lbfgs"])
def test_thresholds_are_chosen_out_of_fold(tmp_path, variant):
    arrays = make_arrays()
    changes = {"l2s": (0.1,)} if variant else {}
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", variant, **changes)
    assert results["decisions"]["chosen_on"] == "60 photos of train, out of fold"
    assert len(results["decisions"]["by_class"]) == NUM_CLASSES
    scores = np.load(tmp_path / "run" / "scores_test.npz")
    meta = metadata.read_head(formats.read(tmp_path / "run" / heads.FILE_NAME))
    expected = decisions.probabilities(scores["logits"], meta.decisions, one_label_each=False)
    np.testing.assert_array_equal(scores["probabilities"], expected)
    answers = results["answers"]["test"]
    assert answers["macro_f1_gain"]["value"] > 0
    assert (tmp_path / "run" / "errors_test.csv").exists()


def test_thresholds_are_chosen_on_val_if_there_is_one(tmp_path):
    arrays = make_arrays()
    arrays |= {f"{name}_val": arrays[f"{name}_test"][:30] for name in "XY"}
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run")
    assert results["decisions"]["chosen_on"] == "30 photos of val"


@pytest.mark.parametrize("variant", ["", "lbfgs"])
def test_one_label_each_is_a_softmax(tmp_path, variant):
    arrays = one_label_arrays()
    path = write(tmp_path / "f.npz", arrays)
    changes = {"transform": "standardise", "l2s": (0.01,)}
    results = run(path, tmp_path / "run", variant, **changes)
    scores = np.load(tmp_path / "run" / "scores_test.npz")
    np.testing.assert_allclose(scores["scores"].sum(axis=1), 1, rtol=1e-5)
    truth = arrays["Y_test"].argmax(axis=1)
    one_label = results["one_label"]["test"]
    right = scores["logits"].argmax(axis=1) == truth
    assert one_label["accuracy"] == pytest.approx(np.mean(right))
    assert np.mean(right) > 0.6
    by_class = [np.mean(right[truth == column]) for column in range(3)]
    assert one_label["balanced_accuracy"] == pytest.approx(np.mean(by_class))
    assert np.sum(one_label["confusion"], axis=1).tolist() == np.bincount(truth).tolist()
    expected = -np.mean(scores["logits"][np.arange(40), truth])
    assert results["loss"]["test"] == pytest.approx(expected, rel=1e-4)
    assert len(set(results["decisions"]["slopes"].values())) == 1  # one temperature
    meta = metadata.read_head(formats.read(tmp_path / "run" / heads.FILE_NAME))
    assert not meta.multi_label
    given = decisions.probabilities(scores["logits"], meta.decisions, one_label_each=True)
    np.testing.assert_array_equal(scores["probabilities"], given)
    head = load_head(tmp_path / "run", "abc")
    logits = arrays["X_test"] @ head["kernel"] + head["bias"]
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, scores["scores"], atol=1e-5)


def test_a_softmax_is_scikit_learns(tmp_path):
    arrays = one_label_arrays()
    path = write(tmp_path / "f.npz", arrays)
    changes = {"transform": "none", "l2s": (0.01,), "class_weights": "balanced"}
    run(path, tmp_path / "run", "lbfgs", **changes)
    scores = np.load(tmp_path / "run" / "scores_test.npz")["scores"]
    furthest = {}
    for weights in (None, "balanced"):
        theirs = LogisticRegression(C=1 / 0.9, class_weight=weights, tol=1e-8, max_iter=10_000)
        theirs.fit(arrays["X_train"], arrays["Y_train"].argmax(axis=1))
        furthest[weights] = np.abs(scores - theirs.predict_proba(arrays["X_test"])).max()
    assert furthest["balanced"] < 0.01  # a fraction of 1e-4 of the objective
    assert furthest[None] > 0.1


def test_what_does_not_say_so_has_several_labels(tmp_path):
    """As the lab's own file and those of a devkit: a sigmoid unless the config asks for more."""
    path = write(tmp_path / "f.npz", one_label_arrays(stated=False))
    results = run(path, tmp_path / "run")
    assert "one_label" not in results
    assert metadata.read_head(formats.read(tmp_path / "run" / heads.FILE_NAME)).multi_label
    assert "one_label" in run(path, tmp_path / "asked", loss="softmax_ce")
    arrays = one_label_arrays()
    arrays["Y_test"][0] = 1
    results = run(write(tmp_path / "g.npz", arrays), tmp_path / "several")
    assert "one_label" not in results


@pytest.mark.parametrize("loss", losses.BY_LABEL)
@pytest.mark.parametrize(
    "class_weights", [pytest.param("none", marks=pytest.mark.full), "balanced"]
)
def test_each_loss_is_the_one_that_sgd_takes(tmp_path, loss, class_weights):
    arrays = make_arrays()
    options = {"loss": loss, "class_weights": class_weights, "num_epochs": 1.0}
    run(write(tmp_path / "f.npz", arrays), tmp_path / "run", **options)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    start, order = fit_linear.seeded(
        (60, NUM_FEATURES), NUM_CLASSES, num_epochs=1, batch_size=32, seed=0
    )
    labels, every = arrays["Y_train"], np.ones((60, NUM_CLASSES))
    weights = losses.class_weights_of(class_weights, loss, labels, every)
    logits = arrays["X_train"][order[0]] @ np.asarray(start.kernel)
    expected = losses.objective(loss, weights).loss(logits, labels[order[0]], every[order[0]])
    assert json.loads(lines[0])["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_the_runs_of_before_are_finished_still(tmp_path, capsys):
    """Their configs lack the loss and the weights."""
    path = write(tmp_path / "f.npz", make_arrays())
    run(path, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text())
    del config["loss"], config["class_weights"]
    file.write_text(json.dumps(config))
    run(path, tmp_path / "run")
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="loss absent -> focal"):
        run(path, tmp_path / "run", loss="focal")


@pytest.mark.parametrize("has_ids", [False, True])
def test_photos_of_similar_features_are_named(tmp_path, caplog, monkeypatch, has_ids):
    monkeypatch.setattr(duplicates, "LEAST_PHOTOS", 0)
    arrays = make_arrays()
    arrays["X_test"][4] = arrays["X_train"][50] + 0.01
    if has_ids:
        arrays |= {f"ids_{role}": np.arange(len(arrays[f"X_{role}"])) for role in ("train", "test")}
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", num_epochs=1.0)
    rows = list(csv.DictReader((tmp_path / "run" / "duplicates.csv").read_text().splitlines()))
    named = {(row["photo"], row["other_photo"]): row for row in rows}
    row = named["50", "4"] if has_ids else named["row 50", "row 4"]
    assert (row["kind"], row["split"], row["other_split"]) == ("similar features", "train", "test")
    assert float(row["correlation"]) > 0.99
    assert results["duplicates"] == {"similar features": len(rows)}
    assert f"{len(rows)} photos of test are also in train" in caplog.text
