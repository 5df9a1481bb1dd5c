"""More labels or fine-tuning? The mAP by the number of labels, and what twice as many would give.

    vtl learning_curve --workdir=runs/learning_curve

Measures the probe, which is the head that fine-tuning starts from, and fine-tuning itself, on
nested subsets of train: near-duplicates and a table's groups stay together, and the test photos are
the same. A power law is fitted to each. It foresees what twice the labels give, with its
uncertainty, or nothing can be said. The other knobs are those of `vtl finetune`. A variant follows
a colon, as in `vtl learning_curve:demo`; all are listed below.
"""

from pathlib import Path

from ml_collections import ConfigDict

from vtl import config_files

BUILDS_ON = config_files.load(Path(__file__).with_name("finetune.py"))


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is that of `vtl finetune`."""
    if variant not in VARIANTS:
        names = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/learning_curve.py has no variant '{variant}'; it has {names}")
    config = BUILDS_ON.get_config(variant)
    config.task = "learning_curve"
    config.variant = variant
    config.fractions = (0.05, 0.1, 0.2, 0.5, 1.0)  # shares of train's photos; 1 is among them
    config.draws = 3  # of each share but 1, each draw's subsets within one another
    config.finetune = True  # measures fine-tuning, too; else the probe alone
    VARIANTS[variant](config)
    return config


def _default(config: ConfigDict) -> None:
    """The default of `vtl finetune`; takes about four times as long as that does."""


def _laptop(config: ConfigDict) -> None:
    """The probe alone, by `vtl finetune:laptop`'s small network: minutes on 2 CPU cores."""
    config.finetune = False


def _demo(config: ConfigDict) -> None:
    """The demo's scenes and network, five passes; needs no download.

    Takes about ten minutes on 2 CPU cores. Expect an mAP (`lab`) of 47 for the probe at all labels,
    3.5 more for twice as many, and 6.7 more for fine-tuning.
    """
    config.num_epochs = 5.0


VARIANTS = {
    "": _default,
    "demo": _demo,
    "laptop": _laptop,
}
