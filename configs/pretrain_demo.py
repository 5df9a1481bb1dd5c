"""Pretrains the demo's network, a ResNet-50 of quarter width, on letters and shapes.

    python -m vtl.main --config=configs/pretrain_demo.py --workdir=runs/pretrain_demo

Writes WORKDIR/model.safetensors, in float16. Half an hour on 2 CPU cores; expect 86 % of held-out
pictures named right. How this one became the package's stands in experiments/pretrain_demo.py.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The one config there is."""
    if variant:
        raise ValueError(f"configs/pretrain_demo.py has no variant '{variant}', nor any other")
    config = ConfigDict()
    config.task = "classify"
    config.variant = ""
    config.seed = 0
    config.image_size = 48
    config.num_images = 400_000  # each is seen once
    config.num_held_out = 2000
    config.epoch_size = 20_000  # pictures between two scorings
    config.batch_size = 64
    config.log_every_steps = 20
    config.saved_dtype = "float16"
    config.precision = "default"

    config.model = ConfigDict()
    config.model.depth = 50
    config.model.width = 0.25
    config.model.dtype = "float32"

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.05
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.optim.weight_decay = 5e-5
    config.optim.decay = "kernels"
    config.optim.clip_norm = 0.0
    config.optim.schedule = "cosine"
    config.optim.warmup_steps = 50
    config.optim.rules = ((".*", 1.0),)
    return config
