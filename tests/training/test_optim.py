import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs.finetune import get_config
from vtl.errors import UserError
from vtl.training import optim

SHAPES = {
    "conv1/kernel": (3, 3, 3, 4),
    "bn1/scale": (4,),
    "bn1/bias": (4,),
    "layer1_0/conv1/kernel": (3, 3, 4, 4),
    "layer1_0/bn1/scale": (4,),
    "layer1_0/bn1/bias": (4,),
    "fc/kernel": (4, 2),
    "fc/bias": (2,),
}
ALL = ((".*", 1.0),)
HEAD = (("fc/.*", 1.0), (".*", None))
DISCRIMINATIVE = (("fc/.*", 10.0), ("layer1_0/bn.*", None), ("layer1_.*", 0.5), (".*", 1.0))


def random_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    flat = {
        path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in SHAPES.items()
    }
    return traverse_util.unflatten_dict(flat, sep="/")


PARAMS = random_tree(0)


def flatten(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def make_config(**options):
    config = get_config().optim
    config.update(options)
    return config


def error_of(function, *args):
    with pytest.raises(UserError) as caught:
        function(*args)
    return str(caught.value)


def test_the_first_match_wins():
    assert optim.resolve_rules(DISCRIMINATIVE, PARAMS) == {
        "conv1/kernel": 1.0,
        "bn1/scale": 1.0,
        "bn1/bias": 1.0,
        "layer1_0/conv1/kernel": 0.5,
        "layer1_0/bn1/scale": None,
        "layer1_0/bn1/bias": None,
        "fc/kernel": 10.0,
        "fc/bias": 10.0,
    }


def test_a_rule_matches_the_whole_path():
    rules = (("conv1/kernel", 2.0), ("bn1/bias", 3.0), (".*", None))
    resolved = optim.resolve_rules(rules, PARAMS)
    assert {path for path, value in resolved.items() if value is not None} == {
        "conv1/kernel",
        "bn1/bias",
    }


def test_every_parameter_needs_a_rule():
    rules = ((".*kernel", 1.0), (".*scale", 1.0))
    assert "no rule matches bn1/bias" in error_of(optim.resolve_rules, rules, PARAMS)
    assert "no rule matches conv1/kernel" in error_of(optim.resolve_rules, (), PARAMS)


def test_a_misspelt_rule_is_named():
    message = error_of(optim.resolve_rules, (("layer9_.*", 1.0), (".*", None)), PARAMS)
    assert "'layer9_.*' matches no parameter" in message
    assert "conv1/kernel" in message


def test_a_rule_that_earlier_ones_shadow_is_named():
    message = error_of(optim.resolve_rules, ((".*", None), ("fc/.*", 1.0)), PARAMS)
    assert "'fc/.*'" in message
    assert "earlier rules" in message


def test_the_same_rule_twice_is_an_error():
    message = error_of(optim.resolve_rules, (("fc/.*", 1.0), *HEAD), PARAMS)
    assert "'fc/.*'" in message
    assert "earlier rules" in message


def test_a_bad_regex_is_named():
    message = error_of(optim.resolve_rules, (("fc/(", 1.0), (".*", None)), PARAMS)
    assert "'fc/('" in message
    assert "regular expression" in message


@pytest.mark.parametrize(
    "rule", ["fc/.*", ("fc/.*",), ("fc/.*", 1.0, 2.0), (1.0, "fc/.*"), ("fc/.*", "frozen"), None]
)
def test_a_malformed_rule_is_shown(rule):
    message = error_of(optim.resolve_rules, (rule, (".*", None)), PARAMS)
    assert f"{rule!r} is not a pair" in message


def test_rules_may_be_lists():
    # Which is what they are after a round trip through config.json.
    rules = [["fc/.*", 1], [".*", None]]
    assert optim.resolve_rules(rules, PARAMS) == optim.resolve_rules(HEAD, PARAMS)


def test_rules_table():
    assert optim.rules_table(DISCRIMINATIVE, PARAMS).splitlines() == [
        "rule                             learning rate  tensors   parameters",
        "fc/.*                                     x 10        2           10",
        "layer1_0/bn.*                           frozen        2            8",
        "layer1_.*                                x 0.5        1          144",
        ".*                                         x 1        3          116",
    ]


@pytest.mark.parametrize(("rules", "count"), [(ALL, 278), (HEAD, 10), (DISCRIMINATIVE, 270)])
def test_count_trainable(rules, count):
    assert optim.count_trainable(optim.resolve_rules(rules, PARAMS), PARAMS) == count


def test_a_multiplier_of_zero_is_not_frozen():
    multipliers = optim.resolve_rules((("fc/.*", 0.0), (".*", 1.0)), PARAMS)
    assert optim.count_trainable(multipliers, PARAMS) == 278


def test_trainable_mask():
    mask = flatten(optim.trainable_mask(optim.resolve_rules(HEAD, PARAMS)))
    assert mask == {path: path.startswith("fc/") for path in SHAPES}


def test_live_norms_are_those_that_train():
    multipliers = optim.resolve_rules(DISCRIMINATIVE, PARAMS)
    assert optim.norms_by_batch("batch", multipliers) == {"bn1"}
    assert optim.norms_by_batch("frozen", multipliers) == frozenset()
    everything = optim.resolve_rules(ALL, PARAMS)
    assert optim.norms_by_batch("batch", everything) == {"bn1", "layer1_0/bn1"}
    assert optim.norms_by_batch("batch", optim.resolve_rules(HEAD, PARAMS)) == frozenset()


@pytest.mark.parametrize(
    ("options", "num_steps", "expected"),
    [
        ({"schedule": "constant"}, 4, [0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "constant", "warmup_steps": 4}, 6, [0, 0.025, 0.05, 0.075, 0.1, 0.1]),
        # 0.05 (1 + cos(pi step / 4))
        ({"schedule": "cosine"}, 4, [0.1, 0.0853553, 0.05, 0.0146447, 0]),
        (
            {"schedule": "cosine", "warmup_steps": 2},
            6,
            [0, 0.05, 0.1, 0.0853553, 0.05, 0.0146447, 0],
        ),
        ({"schedule": "cosine", "warmup_steps": 3}, 4, [0, 1 / 30, 2 / 30, 0.1, 0]),
        ({"schedule": "cosine"}, 1, [0.1, 0]),
    ],
)
def test_schedules(options, num_steps, expected):
    schedule = optim.make_schedule(make_config(learning_rate=0.1, **options), num_steps)
    rates = [float(schedule(step)) for step in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("warmup", "num_steps"), [(3, 3), (50, 9)])
def test_a_warm_up_that_would_not_end_is_refused(warmup, num_steps):
    message = error_of(optim.make_schedule, make_config(warmup_steps=warmup), num_steps)
    expected = f"optim.warmup_steps must be below the {num_steps} steps of the run, got {warmup}"
    assert message == expected
    # Of a run without a step nothing is asked.
    optim.make_schedule(make_config(warmup_steps=warmup), 0)


def test_an_unknown_schedule_lists_the_known():
    message = error_of(optim.make_schedule, make_config(schedule="step"), 10)
    assert "optim.schedule is 'step'" in message
    assert "constant, cosine" in message


def test_an_unknown_decay_lists_the_known():
    multipliers = optim.resolve_rules(ALL, PARAMS)
    message = error_of(optim.make_optimizer, make_config(decay="none"), lambda _: 0.1, multipliers)
    assert "optim.decay is 'none'" in message
    assert "all, kernels" in message


def train_ours(config, rules, num_steps):
    """The parameters after each step of ours on the gradients of seeds 1, 2, ..."""
    multipliers = optim.resolve_rules(rules, PARAMS)
    trainable = optim.trainable_mask(multipliers)
    optimizer = optim.make_optimizer(config, optim.make_schedule(config, num_steps), multipliers)

    @jax.jit
    def step(params, opt_state, grads):
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optim.apply_updates(params, updates, trainable), opt_state

    params, opt_state = PARAMS, optimizer.init(PARAMS)
    for seed in range(1, num_steps + 1):
        params, opt_state = step(params, opt_state, random_tree(seed))
        yield flatten(params)


def train_torch(config, rules, num_steps):
    """The same of torch.optim.SGD, with a group a parameter and the rate set by hand."""
    torch = pytest.importorskip("torch")
    multipliers = optim.resolve_rules(rules, PARAMS)
    params = {path: torch.tensor(value) for path, value in flatten(PARAMS).items()}
    trained = {
        path: p.requires_grad_() for path, p in params.items() if multipliers[path] is not None
    }
    groups = [
        {
            "params": [p],
            "weight_decay": config.weight_decay
            if config.decay == "all" or path.endswith("/kernel")
            else 0.0,
            "multiplier": multipliers[path],
        }
        for path, p in trained.items()
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=config.momentum, nesterov=config.nesterov)
    for step in range(num_steps):
        for path, grad in flatten(random_tree(step + 1)).items():
            if path in trained:
                params[path].grad = torch.tensor(grad)
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(list(trained.values()), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = rate_by_hand(config, step, num_steps) * group["multiplier"]
        optimizer.step()
        yield {path: p.detach().numpy().copy() for path, p in params.items()}


def rate_by_hand(config, step, num_steps):
    warmup = config.warmup_steps
    if step < warmup:
        return config.learning_rate * step / warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - warmup) / (num_steps - warmup)
    return config.learning_rate * (1 + np.cos(np.pi * done)) / 2


@pytest.mark.parity
@pytest.mark.parametrize(
    ("options", "rules"),
    [
        pytest.param({"momentum": 0.0, "schedule": "constant"}, ALL, id="plain"),
        pytest.param({"schedule": "constant"}, ALL, id="momentum"),
        pytest.param({"nesterov": True, "schedule": "constant"}, ALL, id="nesterov"),
        pytest.param({"weight_decay": 0.01}, ALL, id="decay all, cosine"),
        pytest.param({"weight_decay": 0.01, "decay": "kernels"}, ALL, id="decay kernels"),
        pytest.param({"warmup_steps": 3}, DISCRIMINATIVE, id="warm-up, multipliers, frozen"),
        pytest.param({"weight_decay": 0.1}, HEAD, id="head"),
        # The gradients' norm is about 17; all of it is clipped, or some steps, or none.
        pytest.param({"clip_norm": 1.0}, ALL, id="clip"),
        pytest.param({"clip_norm": 16.5}, DISCRIMINATIVE, id="clip some, multipliers, frozen"),
        pytest.param({"clip_norm": 100.0}, ALL, id="clip none"),
        pytest.param(
            {"clip_norm": 2.0, "weight_decay": 0.01, "nesterov": True, "warmup_steps": 2},
            DISCRIMINATIVE,
            id="everything",
        ),
    ],
)
def test_equals_torch_step_by_step(options, rules):
    config = make_config(learning_rate=0.1, **options)
    # torch divides by the norm + 1e-6, optax by the norm: a relative 1e-7 at these norms.
    ours, theirs = (train(config, rules, 10) for train in (train_ours, train_torch))
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        for path in SHAPES:
            difference = np.abs(our[path] - their[path]).max() / np.abs(their[path]).max()
            assert difference < 1e-6, f"{path} at step {step}"


def test_clipping_is_by_the_norm_of_all_that_trains_together():
    # One chain clips over all of it; a chain per group would give each group the full norm.
    config = make_config(
        learning_rate=1.0, momentum=0.0, schedule="constant", clip_norm=1.0, weight_decay=0.0
    )
    multipliers = optim.resolve_rules(DISCRIMINATIVE, PARAMS)
    optimizer = optim.make_optimizer(config, lambda _: 1.0, multipliers)
    grads = random_tree(1)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    flat_updates, flat_grads = flatten(updates), flatten(grads)
    moves = {path: m for path, m in multipliers.items() if m is not None}
    norm = np.sqrt(sum((flat_grads[path].astype(np.float64) ** 2).sum() for path in moves))
    for path, multiplier in moves.items():
        np.testing.assert_allclose(
            flat_updates[path], -multiplier * flat_grads[path] / norm, rtol=1e-5
        )


def test_what_is_frozen_has_no_momentum_and_no_update():
    config = make_config(weight_decay=0.1, clip_norm=1.0)
    optimizer = optim.make_optimizer(config, lambda _: 0.1, optim.resolve_rules(HEAD, PARAMS))
    opt_state = optimizer.init(PARAMS)
    sizes = [leaf.size for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
    assert sorted(sizes) == [2, 8]
    updates, _ = optimizer.update(random_tree(1), opt_state, PARAMS)
    for path, update in flatten(updates).items():
        assert bool(np.any(np.asarray(update))) == path.startswith("fc/"), path


def test_what_is_frozen_does_not_starve_the_rest_of_its_clipped_norm():
    config = make_config(learning_rate=1.0, momentum=0.0, clip_norm=1.0)
    optimizer = optim.make_optimizer(config, lambda _: 1.0, optim.resolve_rules(HEAD, PARAMS))
    grads = random_tree(1)
    grads["conv1"]["kernel"] = 1e6 * grads["conv1"]["kernel"]
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    assert float(optax.tree.norm(updates["fc"])) == pytest.approx(1.0, rel=1e-5)


def test_freeze_gradients():
    trainable = optim.trainable_mask(optim.resolve_rules(HEAD, PARAMS))

    def loss(params):
        return optax.tree.norm(optim.freeze_gradients(params, trainable), squared=True)

    for path, grad in flatten(jax.grad(loss)(PARAMS)).items():
        expected = 2 * flatten(PARAMS)[path] if path.startswith("fc/") else np.zeros(SHAPES[path])
        np.testing.assert_allclose(grad, expected, rtol=1e-6)


def test_apply_updates_keeps_the_frozen_bit_identical():
    # -0.0 + 0.0 is 0.0, another bit pattern.
    params = {"a": jnp.array([-0.0, 1.0]), "b": jnp.array([-0.0, 1.0])}
    updates = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([0.0, 2.0])}
    applied = optim.apply_updates(params, updates, {"a": False, "b": True})
    assert np.asarray(applied["a"]).tobytes() == np.asarray(params["a"]).tobytes()
    assert applied["b"].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("multiplier", [-0.1, float("nan"), float("inf")])
def test_a_multiplier_is_finite_and_at_least_0(multiplier):
    message = error_of(optim.resolve_rules, ((".*", multiplier),), PARAMS)
    assert f"at least 0, got ('.*', {multiplier})" in message
    assert "None freezes" in message
