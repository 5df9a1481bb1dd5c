import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtl.data import batches
from vtl.relu_study.lenet import LeNet
from vtl.relu_study.mlp import Perceptron
from vtl.training import fit_networks

NUM_IMAGES, NUM_HELD_OUT, BATCH_SIZE, MOMENTS, STEPS = 60, 23, 8, 3, 4


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES + NUM_HELD_OUT, 8, 8), np.uint8)
    labels = rng.integers(0, 10, len(images), np.uint8)
    train = images[:NUM_IMAGES], labels[:NUM_IMAGES]
    return train, (images[NUM_IMAGES:], labels[NUM_IMAGES:])


def order(seed):
    steps = batches.train_order(
        MOMENTS * STEPS, num_images=NUM_IMAGES, batch_size=BATCH_SIZE, seed=seed
    )
    return steps.reshape(MOMENTS, STEPS, BATCH_SIZE)


def train(model, data, rates, seeds):
    orders = np.stack([order(seed) for seed in seeds])
    start = fit_networks.start(model, (8, 8), seeds)
    return fit_networks.softmax_sgd(model, *data, orders, start, np.array(rates, np.float32))


def take(tree, g):
    return jax.tree.map(lambda x: np.asarray(x[g]), tree)


@pytest.mark.parity
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_the_perceptron_follows_pytorch(data, activation):
    torch = pytest.importorskip("torch")
    model = Perceptron(activation, "suited", num_hidden=12)
    params, curves = train(model, data, [0.5], [3])
    start = take(fit_networks.start(model, (8, 8), [3]), 0)
    layers = [torch.nn.Linear(64, 12), torch.nn.Linear(12, 10)]
    with torch.no_grad():
        for layer, name in zip(layers, ("dense1", "dense2"), strict=True):
            layer.weight.copy_(torch.tensor(start[name]["kernel"].T))
            layer.bias.copy_(torch.tensor(start[name]["bias"]))
    squash = torch.sigmoid if activation == "sigmoid" else torch.relu
    optimizer = torch.optim.SGD([p for layer in layers for p in layer.parameters()], lr=0.5)
    (images, labels), (held_images, held_labels) = data

    def forward(images):
        hidden = squash(layers[0](torch.tensor(images.reshape(-1, 64) / 255.0).float()))
        return hidden, layers[1](hidden)

    for m, rows_of_moment in enumerate(order(3)):
        losses, norms = [], []
        for rows in rows_of_moment:
            targets = torch.tensor(labels[rows].astype(np.int64))
            loss = torch.nn.functional.cross_entropy(forward(images[rows])[1], targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            gradient = torch.cat([layers[0].weight.grad.ravel(), layers[0].bias.grad])
            norms.append(gradient.norm().item())
        assert curves.train_loss[0, m] == pytest.approx(np.mean(losses), rel=1e-4)
        assert curves.gradient_norms["dense1"][0, m] == pytest.approx(np.mean(norms), rel=1e-3)
        with torch.no_grad():
            hidden, logits = forward(held_images)
            targets = torch.tensor(held_labels.astype(np.int64))
            loss = torch.nn.functional.cross_entropy(logits, targets).item()
        assert curves.held_out.loss[0, m] == pytest.approx(loss, rel=1e-4)
        hits = float((logits.argmax(1) == targets).float().mean())
        assert curves.held_out.accuracy[0, m] == pytest.approx(hits, abs=1e-6)
        if activation == "sigmoid":
            saturated = float(((hidden < 0.05) | (hidden > 0.95)).float().mean())
            assert curves.held_out.saturated["dense1"][0, m] == pytest.approx(saturated, abs=2e-3)
        else:
            dead = float((hidden.amax(0) == 0).float().mean())
            assert curves.held_out.dead["dense1"][0, m] == pytest.approx(dead, abs=1e-6)
    np.testing.assert_allclose(
        params["dense1"]["kernel"][0].T, layers[0].weight.detach().numpy(), atol=1e-4
    )


@pytest.mark.full
@pytest.mark.parametrize(
    "model",
    [
        Perceptron("tanh", "suited"),
        pytest.param(
            LeNet("relu", "sigmoid", "suited", kernel_size=3, padding=1, channels=(2, 3)),
            marks=pytest.mark.full,
        ),
    ],
)
def test_networks_train_together_as_each_does_alone(data, model):
    runs = [(0.1, 0), (0.3, 0), (0.3, 1)]
    together = train(model, data, *zip(*runs, strict=True))
    for g, (rate, seed) in enumerate(runs):
        alone = train(model, data, [rate], [seed])
        for one, other in zip(
            jax.tree.leaves(take(together, g)), jax.tree.leaves(take(alone, 0)), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    losses = np.asarray(together[1].train_loss)
    assert len(np.unique(losses[:, -1])) == 3


def test_score_counts_every_image_once(data, monkeypatch):
    model = Perceptron("relu", "suited")
    params = fit_networks.start(model, (8, 8), [0, 1])
    _, (images, labels) = data
    logits, hidden = model.apply({"params": take(params, 1)}, jnp.asarray(images) / 255)
    expected = -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()
    for piece in (5, 23, 100):
        monkeypatch.setattr(fit_networks, "_SCORED_AT_ONCE", piece)
        fit_networks.score.clear_cache()
        score = fit_networks.score(model, params, images, labels)
        assert score.loss[1] == pytest.approx(float(expected), rel=1e-5)
        assert score.accuracy[1] == pytest.approx(float((logits.argmax(1) == labels).mean()))
        dead = float((hidden["dense1"].max(0) == 0).mean())
        assert score.dead["dense1"][1] == pytest.approx(dead)
    fit_networks.score.clear_cache()


def test_dead_relus_and_saturated_sigmoids_are_counted(data):
    _, (images, labels) = data
    for activation, what in (("relu", "dead"), ("sigmoid", "saturated")):
        model = Perceptron(activation, "suited", num_hidden=4)
        params = fit_networks.start(model, (8, 8), [0])
        params["dense1"]["kernel"] = jnp.zeros_like(params["dense1"]["kernel"])
        params["dense1"]["bias"] = jnp.array([[-5.0, -5.0, 1.0, 5.0]])
        share = getattr(fit_networks.score(model, params, images, labels), what)["dense1"][0]
        assert share == pytest.approx({"dead": 0.5, "saturated": 0.75}[what])


def test_a_tanh_can_saturate_and_a_gelu_can_neither_saturate_nor_die(data):
    for activation, keys in (("tanh", ({"dense1"}, set())), ("gelu", (set(), set()))):
        model = Perceptron(activation, "suited")
        score = fit_networks.score(model, fit_networks.start(model, (8, 8), [0]), *data[1])
        assert (set(score.saturated), set(score.dead)) == keys
