"""Whether mixing what was trained with its start (WiSE-FT), or rates by depth, do good.

    python -m experiments.do_no_harm --root=DEVKIT --weights=FILE --out=runs/do_no_harm

"photos": one pass from the head of configs/finetune.py's default, at 224 pixels, on the first
partition of experiments/partitions.py. Every mixture is scored on test, so that the best of them
shows more than a choice without test would bring. "digits": configs/finetune.py:demo, three seeds;
"chosen" is the pass that is best on held-out scenes, "chosen mixture" the pass and the share.

"gain" is over the start: the mean of the differences in mAP (scikit-learn's AP) over partitions or
seeds, with the 95 % interval of a bootstrap over photos, as in partitions.py; "over_trained" is the
same over the trained state. What lies in OUT isn't computed again. Writes
experiments/do_no_harm.csv.
"""

import argparse
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs import finetune as finetune_config
from experiments import grid, partitions, tables
from vtl import files, identity
from vtl.data import batches, images
from vtl.data.held_out import Rows
from vtl.data.split import Split
from vtl.data.splits import of_config
from vtl.finetuning import mixtures, trial
from vtl.finetuning.job import Job, checkpoints_of, training_set_of
from vtl.run_directory import RunDirectory
from vtl.training import losses, optim
from vtl.training.loop import TrainingSet
from vtl.training.state import TrainState, make_mesh
from vtl.weights import network

MIXES = (0.25, 0.5, 0.75)
START, TRAINED = "0.0", "1.0"
NUM_PARTITIONS = 1
SEEDS = (0, 1, 2)

PHOTOS: dict[str, grid.Overrides] = {
    "all at 0.1": {},
    "head at 0.1, layer 4 at 0.03, layer 3 at 0.01": {
        "optim.rules": (("fc/.*", 1.0), ("layer4_.*", 0.3), ("layer3_.*", 0.1), (".*", None))
    },
}
"""What each recipe changes of the default, at 224 pixels."""

Logits = dict[str, np.ndarray]
"""By the share of what was trained, from START to TRAINED: [T, C] of the test photos."""


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/do_no_harm"))
    options = parser.parse_args()
    jax.config.update("jax_compilation_cache_dir", str(files.cache_dir() / "xla"))
    rows = digits(options.out)
    for recipe in PHOTOS:
        rows += photos(recipe, options)
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)


def photos(recipe: str, options: argparse.Namespace) -> list[tables.Row]:
    """A row a mixture."""
    where = {"data.root": options.root, "weights": options.weights, "data.image_size": 224}
    job, splits = job_of("", where | {"held_out": 0.0} | PHOTOS[recipe])
    pixels = images.decode_splits(splits, job.net.preprocessing, crops=False)
    sets = [training_set_of(pixels[role], splits[role], "ignore") for role in splits]
    together = np.concatenate([np.asarray(pixels[role]) for role in splits])
    labels = np.concatenate([np.asarray(each.labels) for each in sets])
    label_mask = np.concatenate([each.label_mask for each in sets])
    parts = list(partitions.partitions(partitions.groups_of(splits)))[:NUM_PARTITIONS]
    found, commits = [], []
    for number, (train, test) in enumerate(parts):
        chosen = TrainingSet(Rows(together, train), labels[train], label_mask[train])
        out = options.out / f"photos_{identity.text_sha256([recipe])[:6]}_{number}"
        content = {"data": {"train": identity.array_sha256(train)}}
        found.append(trained(job, chosen, Rows(together, test), {1}, out, content)[1])
        commits.append(grid.outcome(out)["commit"])
    return table("photos", recipe, found, labels, parts, commits)


def digits(out: Path) -> list[tables.Row]:
    """A row a mixture after the pass that is chosen alone, and one with both chosen."""
    found, chosen, commits = [], [], []
    for seed in SEEDS:
        job, splits = job_of("demo", {"seed": seed})
        logits, passes = chosen_digits(job, splits, out / f"digits_{seed}")
        found.append(logits)
        chosen.append(passes)
        commits.append(grid.outcome(out / f"digits_{seed}" / "training")["commit"])
    counts = len(splits["train"]), len(splits["test"])
    labels = np.concatenate([splits["train"].labels, splits["test"].labels])
    part = np.arange(counts[0]), counts[0] + np.arange(counts[1])
    recipe = f"demo: {', '.join(chosen)}"
    return table("digits", recipe, found, labels, [part] * len(SEEDS), commits)


def chosen_digits(job: Job, splits: dict[str, Split], out: Path) -> tuple[Logits, str]:
    """Of the pass that the trial chooses, and of the pass and the share it chooses; these, too."""
    pixels = images.decode_splits(splits, job.net.preprocessing, crops=False)
    train = splits["train"]
    parts = trial.parts_of(job, pixels["train"], train)
    assert parts is not None
    content = {"data": identity.of_splits(splits)}
    tried = trial.run(job, pixels["train"], train, parts, content, out)
    alone, both = int(np.argmax(tried["maps"])), int(np.argmax(tried["mixed_maps"]))
    training_set = training_set_of(pixels["train"], train, "ignore")
    place = out / "training"
    found = trained(job, training_set, pixels["test"], {0, alone, both}, place, content)
    share = str(tried["mixes"][both])
    logits = {**found[alone], "chosen": found[alone][TRAINED], "chosen mixture": found[both][share]}
    return logits, f"{alone} or {both} x {share}"


def job_of(variant: str, overrides: grid.Overrides) -> tuple[Job, dict[str, Split]]:
    """A variant of configs/finetune.py that mixes, and its photos."""
    config = finetune_config.get_config(variant)
    config.update_from_flattened_dict({"mix_with_start": MIXES} | overrides)
    splits = of_config(config.data)
    net = network.from_config(config, len(splits["train"].classes))
    net = network.with_head(
        net, pooling=config.pooling, transform=config.transform, regions=config.regions
    )
    params = network.shapes_of(net.model)["params"]
    multipliers = optim.resolve_rules(config.optim.rules, params)
    return Job(config, net, None, multipliers, make_mesh(), losses.SIGMOID), splits


def trained(
    job: Job,
    training_set: TrainingSet,
    test: batches.Images,
    passes: Collection[int],
    out: Path,
    content: dict[str, Any],
) -> dict[int, Logits]:
    """Train all passes; the logits of all mixtures after some of them."""
    plan = job.plan(len(training_set.images))
    paths = {number: out / f"after_{number}.npz" for number in passes}
    run = RunDirectory(out, job.config)
    start = job.start(training_set)

    def score(state: TrainState) -> dict[str, float]:
        number = round(int(state.step) * plan.batch_size / plan.epoch_size)
        if number in passes:
            mixed = {str(x): mixtures.mixture(start(), state.variables, x, job.mesh) for x in MIXES}
            states = {START: start(), **mixed, TRAINED: state.variables}
            logits = {share: job.logits(each, test) for share, each in states.items()}
            run.write_arrays(f"after_{number}", logits)
        return {}

    if not all(path.exists() for path in paths.values()):
        run.begin(content)
        checkpoints = checkpoints_of(run, best_by=None)
        job.train(start, training_set, plan, run, checkpoints, score)
        checkpoints.close()
        shutil.rmtree(out / "checkpoints")
        run.write_results({})
    found = {}
    for number, path in paths.items():
        with np.load(path) as file:
            found[number] = dict(file)
    return found


def table(
    data: str,
    recipe: str,
    found: list[Logits],
    labels: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    commits: list[str],
) -> list[tables.Row]:
    """A row a state, beside the start."""
    (commit,) = set(commits)
    rows = []
    for state in found[0]:
        logits, starts, ends = ([of[name] for of in found] for name in (state, START, TRAINED))
        numbers = partitions.compared(logits, starts, labels, parts)
        beside = partitions.compared(logits, ends, labels, parts)
        numbers |= {f"over_trained{end}": beside[f"gain{end}"] for end in ("", "_low", "_high")}
        what = {"data": data, "recipe": recipe, "share": state}
        rows.append(what | numbers | {"commit": commit})
        tables.show(rows[-1])
    return rows


if __name__ == "__main__":
    main()
