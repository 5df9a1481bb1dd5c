"""The optimiser: schedule, freeze and learning-rate rules, SGD with momentum."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from ml_collections import ConfigDict

from vtl.errors import UserError, check_choice
from vtl.models import HEAD

Rules = tuple[tuple[str, float | None], ...]
Multipliers = dict[str, float | None]
"""Path of a parameter -> its learning-rate multiplier; None freezes it."""


LAST_STAGE = "last_stage"
"""What stands in a rule for the paths of a network's last stage."""


def spelled_out(rules: Rules, last_stage: str) -> Rules:
    """The rules with the regex of the last stage's paths for `LAST_STAGE`."""

    def names_it(rule: Any) -> bool:
        return isinstance(rule, tuple | list) and [*rule[:1]] == [LAST_STAGE]

    return tuple((last_stage, *rule[1:]) if names_it(rule) else rule for rule in rules)


def resolve_rules(rules: Rules, params: Any) -> Multipliers:
    """Give each parameter the value of the first rule whose regex matches its whole path.

    Raises:
        UserError: a rule that matches nothing, a parameter that no rule matches, a bad regex.
    """
    paths = list(traverse_util.flatten_dict(params, sep="/"))
    _check_rules(rules)
    used = set()
    multipliers: Multipliers = {}
    for path in paths:
        for index, (pattern, value) in enumerate(rules):
            if _compile(pattern).fullmatch(path):
                multipliers[path] = value
                used.add(index)
                break
        else:
            raise UserError(f"optim.rules: no rule matches {path}; end them with ('.*', 1.0)")
    for index, (pattern, _) in enumerate(rules):
        if index not in used:
            matches = any(_compile(pattern).fullmatch(path) for path in paths)
            why = "only what earlier rules took" if matches else "no parameter"
            raise UserError(f"optim.rules: '{pattern}' matches {why}; paths look like {paths[0]}")
    return multipliers


def _check_rules(rules: Rules) -> None:
    for rule in rules:
        is_pair = isinstance(rule, tuple | list) and len(rule) == 2
        if not (is_pair and isinstance(rule[0], str) and isinstance(rule[1], float | int | None)):
            raise UserError(
                f"optim.rules: {rule!r} is not a pair of a regex and a multiplier or None, "
                f"as in (('{HEAD}/.*', 1.0), ('.*', None))"
            )
        if rule[1] is not None and not 0 <= rule[1] < math.inf:
            raise UserError(
                f"optim.rules: the multiplier must be finite and at least 0, got {rule!r}; "
                "None freezes"
            )


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"optim.rules: '{pattern}' is not a regular expression: {error}") from None


def rules_table(rules: Rules, params: Any) -> str:
    """One line per rule: the tensors and parameters that it is first to match, and their rate."""
    flat = traverse_util.flatten_dict(params, sep="/")
    unmatched = {path: leaf.size for path, leaf in flat.items()}
    lines = [f"{'rule':<32}{'learning rate':>14}{'tensors':>9}{'parameters':>13}"]
    for pattern, value in rules:
        matched = [path for path in unmatched if _compile(pattern).fullmatch(path)]
        rate = "frozen" if value is None else f"x {value:g}"
        total = sum(unmatched.pop(path) for path in matched)
        lines.append(f"{pattern:<32}{rate:>14}{len(matched):>9}{total:>13,}")
    return "\n".join(lines)


def count_trainable(multipliers: Multipliers, params: Any) -> int:
    """The number of trainable parameters."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return sum(leaf.size for path, leaf in flat.items() if multipliers[path] is not None)


def trainable_mask(multipliers: Multipliers) -> Any:
    """A tree shaped like params: whether each parameter trains."""
    return _tree({path: value is not None for path, value in multipliers.items()})


def norms_by_batch(mode: str, multipliers: Multipliers) -> frozenset[str]:
    """The BatchNorms that normalise by the batch: in mode `batch` all that train, else none."""
    if mode == "frozen":
        return frozenset()
    norms = (path.rpartition("/") for path in multipliers)
    return frozenset(
        norm
        for norm, _, leaf in norms
        if leaf == "scale" and multipliers[f"{norm}/scale"] is not None
    )


def _tree(flat: dict[str, Any]) -> Any:
    return traverse_util.unflatten_dict(flat, sep="/")


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then `constant`, or `cosine` down to 0 at `num_steps`.

    Raises:
        UserError: there is no such schedule, or the warm-up would not end within the run.
    """
    check_choice("optim.schedule", config.schedule, ("constant", "cosine"))
    rate, warmup = config.learning_rate, config.warmup_steps
    if warmup >= num_steps > 0:
        raise UserError(
            f"optim.warmup_steps must be below the {num_steps} steps of the run, got {warmup}"
        )
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(rate, max(num_steps - warmup, 1))
    else:
        after = optax.constant_schedule(rate)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup), after], [warmup])


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, multipliers: Multipliers
) -> optax.GradientTransformation:
    """SGD like torch.optim.SGD with a parameter group per multiplier; frozen updates are 0.

    Clips by the global norm of all trainable gradients together.
    """
    trainable = {path: value for path, value in multipliers.items() if value is not None}
    decayed = _tree(
        {
            path: value is not None and (config.decay == "all" or path.endswith("/kernel"))
            for path, value in multipliers.items()
        }
    )
    check_choice("optim.decay", config.decay, ("all", "kernels"))

    def multiply(updates: Any, params: Any = None) -> Any:
        del params
        flat = traverse_util.flatten_dict(updates, sep="/")
        for path, multiplier in trainable.items():
            flat[path] = flat[path] * multiplier
        return _tree(flat)

    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity(),
        optax.stateless(multiply),
        optax.scale_by_learning_rate(schedule),
    )
    labels = _tree({path: "trainable" if path in trainable else "frozen" for path in multipliers})
    return optax.partition({"trainable": chain, "frozen": optax.set_to_zero()}, labels)


def freeze_gradients(params: Any, trainable: Any) -> Any:
    """`params` with gradients stopped at what is frozen, so that none are computed for it."""
    return jax.tree.map(lambda p, t: p if t else jax.lax.stop_gradient(p), params, trainable)


def apply_updates(params: Any, updates: Any, trainable: Any) -> Any:
    """Add updates to what trains; the rest stays bit-identical."""
    return jax.tree.map(lambda p, u, t: jnp.add(p, u) if t else p, params, updates, trainable)
