"""Deep features of a data set in VOC's layout, saved as .npz.

    vtl deep_features --workdir=runs/features

Writes WORKDIR/DF_ResNet50_VOC2007.npz, named after the network and the data, with X_train, Y_train,
X_test, Y_test and where they come from. 2 CPU cores do about 15 photos a second at the lab's 224
pixels; the default's photos have four times as many.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default has torchvision's weights."""
    if variant not in VARIANTS:
        names = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/deep_features.py has no variant '{variant}'; it has {names}")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "features"
    config.variant = ""
    config.weights = "torchvision_v1"  # a source (`vtl weights list`), a file or a finished run

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
    config.data.train_split = "trainval"  # the split whose features are X_train; or else train
    config.data.test_split = "test"  # the split whose features are X_test
    # Of large JPEGs: exact decodes all pixels; fast decodes at a half, quarter or eighth of the
    # size, if that is still twice what is stored, and averages a little differently. auto is what
    # the run was begun with; a new one's is exact in VOC's layout, and fast in others.
    config.data.decode = "auto"
    config.data.resize = ""  # squash, resize_crop or squash_crop; "" is what the weights expect
    config.data.image_size = 0  # pixels that the network sees; 0 is what the weights expect

    config.model = ConfigDict()
    config.model.depth = 50  # no longer read: kept for command lines of vtl 0.1
    config.model.width = 1.0  # no longer read: kept for command lines of vtl 0.1
    # Of the activations: float32 or bfloat16. auto is what the run was begun with; a new one's is
    # bfloat16 on CPUs that multiply it faster, and float32 elsewhere.
    config.model.dtype = "float32"
    config.precision = "default"  # of float32 products: default (TF32 on GPUs), high or highest

    # The stage whose output is pooled; "" is the last, a ResNet's layer4. Another name lists all.
    config.layer = ""
    # What becomes of a channel: its average, maximum, both, or cells: the largest average of 2 x 2.
    # Of a ViT also token, or token_average. "" is what the network was published with.
    config.pooling = ""
    config.pool = 1  # pools each of pool x pool cells: 1 gives 2048 numbers, 2 gives 8192
    config.batch_size = 32  # photos a step, on all devices together
    # Compute only these of several shards, to be joined by `vtl features merge`: 0/8 to 7/8, or
    # auto/8, where SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX says which. "" is all photos.
    config.shard = ""
    return config


def _default(config: ConfigDict) -> None:
    """torchvision's weights, large photos with their edges, the largest average of 2 x 2 cells."""
    config.data.resize = "squash"
    config.data.image_size = 448
    config.pooling = "cells"


def _lab(config: ConfigDict) -> None:
    """The lab sheet: Keras' weights, photos squashed to 224."""
    config.weights = "keras_v1"
    config.data.resize = "squash"


def _demo(config: ConfigDict) -> None:
    """Scenes with handwritten digits, and a small network that never saw one; needs no download.

    Makes the scenes on first use and writes 512 numbers a scene to DF_ResNet50_DEMO.npz. Takes
    under a minute on 2 CPU cores.
    """
    config.weights = "demo"
    config.data.name = "demo"
    config.data.image_size = 96
    config.model.width = 0.25


VARIANTS = {
    "": _default,
    "lab": _lab,
    "demo": _demo,
}
