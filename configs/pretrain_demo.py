"""Pretrains the demo's network, a ResNet-50 of quarter width, on letters and shapes.

    vtl pretrain_demo --workdir=runs/pretrain_demo

Writes WORKDIR/model.safetensors, in float16. Takes half an hour on 2 CPU cores; expect 86 % of
held-out pictures named right. experiments/make/pretrain_demo.py made the file in the package.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is the only one."""
    if variant not in VARIANTS:
        raise ValueError(f"configs/pretrain_demo.py has no variant '{variant}'; it has none")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "classify"
    config.variant = ""
    config.seed = 0  # of the start and of the pictures
    config.image_size = 48  # pixels on each side of a picture
    config.num_images = 400_000  # each is seen once
    config.num_held_out = 2000  # pictures that are scored and never trained on
    config.epoch_size = 20_000  # pictures between two scorings
    config.batch_size = 64  # pictures a step, on all devices together
    config.log_every_steps = 20  # steps between two lines of metrics.jsonl
    config.saved_dtype = "float16"  # of model.safetensors: float16 or float32
    config.precision = "default"  # of float32 products: default (TF32 on GPUs), high or highest

    config.model = ConfigDict()
    config.model.depth = 50  # layers of the ResNet: 18, 34, 50, 101 or 152
    config.model.width = 0.25  # multiplies the channels of every stage
    config.model.dtype = "float32"  # of the activations: float32 or bfloat16

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.05  # the highest rate of the schedule
    config.optim.momentum = 0.9  # 0 is plain SGD
    config.optim.nesterov = True  # Nesterov's momentum
    config.optim.weight_decay = 5e-5  # this times the parameter is added to its gradient
    config.optim.decay = "kernels"  # what decays: all, or kernels (no biases, no BatchNorm)
    config.optim.clip_norm = 0.0  # the largest norm of all gradients together; 0 is no clipping
    config.optim.schedule = "cosine"  # cosine (down to 0 at the last step) or constant
    config.optim.warmup_steps = 50  # steps in which the rate rises linearly from 0
    # Ordered (regex of a complete path, learning-rate multiplier or None for frozen).
    config.optim.rules = ((".*", 1.0),)
    return config


def _default(config: ConfigDict) -> None:
    """One pass over 400,000 pictures, from a random start."""


VARIANTS = {"": _default}
