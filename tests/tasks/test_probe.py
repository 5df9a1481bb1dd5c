import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss

from configs.linear_probe import get_config
from vtl.data import deep_features, voc
from vtl.errors import UserError
from vtl.tasks import probe
from vtl.training import fit
from vtl.weights import heads

NUM_FEATURES, NUM_CLASSES = 12, 20


def make_arrays(seed=0, num_train=60, num_test=40):
    """Features of which the labels are a noisy linear function, under the lab's four keys."""
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
    head = heads.load(tmp_path / "run", classes=tuple(results["classes"]), weights_sha256="any")
    logits = arrays["X_test"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores["scores"], atol=1e-5)


def test_sgd_follows_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = make_arrays()
    features, labels = (arrays[k].astype(np.float32) for k in ("X_train", "Y_train"))
    start, order = fit.seeded((60, NUM_FEATURES), NUM_CLASSES, num_epochs=7, batch_size=8, seed=0)
    head, losses = fit.sgd(
        features,
        labels,
        np.ones_like(labels),
        order[None],
        fit.Linear(start.kernel[None], start.bias[None]),
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
        logits, wanted = linear(torch.tensor(features[rows])), torch.tensor(labels[rows])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(losses[0], theirs, rtol=1e-4)
    np.testing.assert_allclose(head.kernel[0].T, linear.weight.detach().numpy(), atol=1e-4)


def test_lbfgs_chooses_l2_on_train_and_reaches_scikit_learns_minimum(tmp_path):
    arrays = make_arrays()
    path = write(tmp_path / "f.npz", arrays)
    results = run(path, tmp_path / "run", "lbfgs", l2s=(0.01, 1.0))
    assert set(results["l2"].values()) <= {0.01, 1.0}
    head = heads.load(tmp_path / "run", classes=tuple(results["classes"]), weights_sha256="any")
    features, labels = arrays["X_train"], arrays["Y_train"]
    for c, l2 in enumerate(results["l2"].values()):
        if not labels[:, c].any():
            continue
        reference = LogisticRegression(C=1 / (l2 * len(features)), tol=1e-8, max_iter=5000)
        reference.fit(features, labels[:, c])

        def objective(kernel, bias, y=labels[:, c], l2=l2):
            logits = features @ kernel + bias
            return np.mean(np.logaddexp(0, logits) - y * logits) + l2 / 2 * np.sum(kernel**2)

        theirs = objective(reference.coef_[0], reference.intercept_[0])
        assert objective(head["kernel"][:, c], head["bias"][c]) <= theirs * (1 + 1e-4)
    # Test rows have no say: other ones leave the head as it is.
    other = make_arrays(seed=1)
    mixed = arrays | {key: other[key] for key in ("X_test", "Y_test")}
    again = run(write(tmp_path / "g.npz", mixed), tmp_path / "again", "lbfgs", l2s=(0.01, 1.0))
    assert again["l2"] == results["l2"]


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


def test_a_standardised_head_is_saved_for_the_features_as_they_are(tmp_path):
    arrays = make_arrays()
    arrays["X_train"][:, 3] = arrays["X_test"][:, 3] = 7.0  # constant
    results = run(write(tmp_path / "f.npz", arrays), tmp_path / "run", scaling="standardise")
    head = heads.load(tmp_path / "run", classes=tuple(results["classes"]), weights_sha256="any")
    logits = arrays["X_test"] @ head["kernel"] + head["bias"]
    scores = np.load(tmp_path / "run" / "scores_test.npz")["scores"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), scores, atol=1e-5)


def test_l2_scaling_forgets_the_length_of_a_row(tmp_path):
    arrays = make_arrays()
    run(write(tmp_path / "f.npz", arrays), tmp_path / "run", scaling="l2")
    arrays["X_test"] = arrays["X_test"] * np.linspace(0.1, 10, 40)[:, None]
    run(write(tmp_path / "g.npz", arrays), tmp_path / "longer", scaling="l2")
    one, other = (
        np.load(tmp_path / name / "scores_test.npz")["scores"] for name in ("run", "longer")
    )
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert not (tmp_path / "run" / heads.FILE_NAME).exists()


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
    ("option", "value", "found"),
    [
        ("train_split", "train", "trainval"),
        ("test_split", "val", "test"),
        ("weights", "keras_v1", "mine"),
        ("classes", ("a", "b"), "aeroplane"),
    ],
)
def test_features_of_something_else_are_refused(tmp_path, option, value, found):
    meta = {
        "data": {"splits": {"train": "trainval", "test": "test"}},
        "weights": {"name": "mine", "sha256": "0" * 64},
    }
    path = write(tmp_path / "f.npz", make_arrays() | {"meta": np.array(json.dumps(meta))})
    with pytest.raises(UserError, match=f"{option}=.*{found}.*the config asks for"):
        run(path, tmp_path / "run", **{option: value})
    assert not (tmp_path / "run").exists()


def break_nan(arrays):
    arrays["X_train"][5, 2] = np.nan


def break_rows(arrays):
    arrays["Y_test"] = arrays["Y_test"][:-1]


def break_ids(arrays):
    arrays["ids_train"] = np.array(["a", "b"])


def break_keys(arrays):
    del arrays["Y_train"]


def break_labels(arrays):
    arrays["Y_train"][0, 0] = -1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_nan, "X_train has NaN or infinity in 1 rows, the first is row 5"),
        (break_rows, "Y_test has 39 rows, X_test has 40"),
        (break_ids, "ids_train has 2 rows, X_train has 60"),
        (break_keys, "lacks Y_train"),
        (break_labels, "Y_train holds other values than 0 and 1"),
    ],
)
def test_damaged_features(tmp_path, damage, message):
    arrays = make_arrays()
    damage(arrays)
    with pytest.raises(UserError, match=message) as caught:
        deep_features.read(write(tmp_path / "f.npz", arrays))
    assert "\n" not in str(caught.value)


def test_rows_permuted_against_their_ids(tmp_path):
    ids = np.array([f"{i:06d}" for i in range(60)])
    meta = {"data": {"ids_sha256": {"train": voc.ids_sha256(ids)}}}
    arrays = make_arrays() | {"ids_train": ids, "meta": np.array(json.dumps(meta))}
    assert deep_features.read(write(tmp_path / "f.npz", arrays)).splits["train"].ids == tuple(ids)
    with pytest.raises(UserError, match="ids_train are not those of the split, in its order"):
        deep_features.read(write(tmp_path / "g.npz", arrays | {"ids_train": ids[::-1]}))


def test_no_file_and_no_npz(tmp_path):
    with pytest.raises(UserError, match=r"no such file; configs/deep_features.py makes one"):
        deep_features.read(tmp_path / "f.npz")
    (tmp_path / "f.npz").write_text("hello")
    with pytest.raises(UserError, match=r"is not a readable \.npz"):
        deep_features.read(tmp_path / "f.npz")


def test_a_head_for_other_classes_or_weights_is_refused(tmp_path):
    kernel, bias = np.ones((4, 2), np.float32), np.zeros(2, np.float32)
    heads.save(tmp_path, kernel, bias, classes=("a", "b"), weights_sha256="1234567890")
    with pytest.raises(UserError, match="other classes"):
        heads.load(tmp_path, classes=("a", "c"), weights_sha256="1234567890")
    with pytest.raises(UserError, match="other weights"):
        heads.load(tmp_path, classes=("a", "b"), weights_sha256="0987654321")
    with pytest.raises(UserError, match="no finished probe there"):
        heads.load(tmp_path / "nowhere", classes=("a", "b"), weights_sha256="0")
    loaded = heads.load(tmp_path, classes=("a", "b"), weights_sha256="1234567890")
    np.testing.assert_array_equal(loaded["kernel"], kernel)
