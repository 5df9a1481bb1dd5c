"""Fine-tuning on PASCAL VOC2007 or any data in its layout.

    vtl finetune --workdir=runs/finetune

A variant follows a colon, as in `vtl finetune:lab`; each says below what it is.
What was measured stands in experiments/finetune_animals.csv and the README. A pass over 1,000
photos takes about nine minutes on 2 CPU cores at 352 pixels, and four at 224.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is our recommended recipe."""
    if variant not in VARIANTS:
        known = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/finetune.py has no variant '{variant}'; it has {known}")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "finetune"
    config.variant = ""
    config.seed = 0  # of the new head, the order of the photos, augmentation and intervals
    # A source (`vtl weights list`), a file, or a finished run; "" is random.
    config.weights = "torchvision_v1"

    config.data = ConfigDict()
    config.data.name = "voc2007"  # what to fetch or make where there is no root: voc2007 or demo
    config.data.root = ""  # an unpacked devkit, PATH/VOCdevkit/VOC2007; "" fetches or makes `name`
    config.data.train_split = "trainval"  # the split to train on
    config.data.val_split = ""  # picks the best checkpoint; "" takes the last step's
    config.data.test_split = "test"  # scored once, at the end
    config.data.resize = ""  # squash or resize_crop; "" is the weights' own
    config.data.image_size = 352  # pixels the network sees; 0 is the weights' own
    config.data.difficult = "ignore"  # in the training loss: ignore or negative

    config.model = ConfigDict()
    config.model.depth = 50  # layers of the ResNet: 18, 34, 50, 101 or 152
    config.model.width = 1.0  # multiplies the channels of every stage
    config.model.dtype = "float32"  # of the activations: float32 or bfloat16
    config.precision = "default"  # of float32 products: default (TF32 on GPUs), highest
    # The new head: zeros, random, keep (the weights' own), or probe: logistic regression on the
    # frozen features first (LP-FT, Kumar et al. 2022).
    config.head = "probe"
    config.head_l2 = 0.01  # of the logistic regression of head = probe
    config.head_from = ""  # a run of `vtl linear_probe` whose head to start from instead

    config.num_epochs = 2.0  # passes over the training split; a fraction will do
    config.batch_size = 32  # photos a training step, on all devices together
    config.eval_batch_size = 32  # photos a scoring step, on all devices together
    config.augment = "flip"  # none, flip or crop_flip
    config.batch_norm = "frozen"  # frozen, or batch: by the batch where the norm trains
    config.log_every_steps = 10  # steps between two lines of metrics.jsonl
    config.test_every_epoch = False  # a test curve, which selects nothing
    config.gallery_photos = 4  # hits, false alarms and misses of each class kept for the report

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.01  # the highest of the schedule
    config.optim.momentum = 0.9  # 0 is plain SGD
    config.optim.nesterov = False  # Nesterov's momentum
    config.optim.weight_decay = 0.0  # times the parameter, added to its gradient
    config.optim.decay = "all"  # what decays: all, or kernels: no biases, no BatchNorm
    config.optim.clip_norm = 0.0  # the largest norm of all gradients together; 0 is no clipping
    config.optim.schedule = "cosine"  # cosine, down to 0 at the last step, or constant
    config.optim.warmup_steps = 0  # steps in which the rate rises linearly from 0
    # Ordered (regex of a whole path, learning-rate multiplier or None for frozen).
    config.optim.rules = ((".*", 1.0),)
    return config


def _default(config: ConfigDict) -> None:
    """LP-FT on large photos: the head by logistic regression, then two gentle passes over all.

    Expect more than a probe at 224 pixels gives (sample mAP 65.5 against 63.7, with 700 photos).
    With so few most of it comes from where the probe starts it, and from the size of the photos,
    which have two and a half times the pixels of 224.
    """


def _lab(config: ConfigDict) -> None:
    """The lab sheet to the letter: everything trains, plain SGD at 0.1, BatchNorm by the batch.

    With 700 photos expect it far below the default (sample mAP 36 against 65): ten such passes from
    a random head are too few, and the loss is still falling at the end.
    """
    config.weights = "keras_v1"
    config.data.resize = "squash"
    config.data.image_size = 0
    config.data.difficult = "negative"
    config.head = "random"
    config.num_epochs = 10.0
    config.augment = "none"
    config.batch_norm = "batch"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.0
    config.optim.schedule = "constant"


def _head(config: ConfigDict) -> None:
    """The head alone, trained by SGD on a frozen network: the lab's linear probe, on photos.

    Expect what `vtl linear_probe` gives for as many epochs; that one starts at random.
    """
    config.data.image_size = 0
    config.data.difficult = "negative"
    config.head = "zeros"
    config.num_epochs = 20.0
    config.augment = "none"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.0
    config.optim.schedule = "constant"
    config.optim.rules = (("fc/.*", 1.0), (".*", None))


def _partial(config: ConfigDict) -> None:
    """The default with all frozen but the last stage and the head; the rest has no backward pass.

    A training step takes about a third of the time of the default's on a CPU.
    """
    config.optim.rules = (("fc/.*", 1.0), ("layer4_.*", 1.0), (".*", None))


def _scratch(config: ConfigDict) -> None:
    """Random initialisation: what the ImageNet weights are worth.

    With 700 photos expect a third of what the default gives (sample mAP 22 against 65).
    """
    config.weights = ""
    config.data.image_size = 0
    config.head = "random"
    config.num_epochs = 10.0
    config.augment = "crop_flip"
    config.batch_norm = "batch"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.warmup_steps = 50


def _demo(config: ConfigDict) -> None:
    """The same idea on a laptop, with nothing to fetch: from letters and shapes to digits.

    1,000 scenes with one to four handwritten digits each, made on first use, and the small network
    that `vtl pretrain_demo` made, which never saw a digit. One to two minutes on 2 CPU cores.
    """
    config.weights = "demo"
    config.data.name = "demo"
    config.data.resize = "squash"
    config.data.image_size = 96
    config.model.width = 0.25
    config.num_epochs = 10.0
    config.augment = "none"  # most mirrored digits are none
    config.optim.learning_rate = 0.05


VARIANTS = {
    "": _default,
    "demo": _demo,
    "lab": _lab,
    "head": _head,
    "partial": _partial,
    "scratch": _scratch,
}
