"""Deep features of a data set in VOC's layout, saved as .npz.

    python -m vtl.main --config=configs/deep_features.py --workdir=runs/features

Writes WORKDIR/DF_ResNet50_VOC2007.npz, named after depth and data: X_train, Y_train, X_test, Y_test
and what they were made of. On 2 CPU cores about 15 photos a second.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant.

    `lab` is the lab sheet: Keras weights, photos squashed to 224. `demo` needs nothing fetched:
    scenes with handwritten digits, made on first use, and a small network that never saw a digit.
    """
    config = ConfigDict()
    config.task = "features"
    config.variant = variant
    config.weights = "torchvision_v1"  # a source, a file, or a finished run

    config.data = ConfigDict()
    config.data.name = "voc2007"  # or demo
    config.data.root = ""  # an unpacked devkit, PATH/VOCdevkit/VOC2007; "" fetches or makes `name`
    config.data.train_split = "trainval"
    config.data.test_split = "test"
    config.data.resize = ""  # squash or resize_crop; "" is the weights' own
    config.data.image_size = 0  # pixels the network sees; 0 is the weights' own

    config.model = ConfigDict()
    config.model.depth = 50
    config.model.width = 1.0
    config.model.dtype = "float32"  # of the activations: float32 or bfloat16
    config.precision = "default"  # of float32 products: default (TF32 on GPUs), highest

    config.layer = "layer4"  # the stage whose output is averaged: layer1 to layer4
    config.pool = 1  # over pool x pool cells: 1 gives 2048 numbers, 2 gives 8192
    config.batch_size = 32

    if variant == "lab":
        config.weights = "keras_v1"
        config.data.resize = "squash"
    elif variant == "demo":
        config.weights = "demo"
        config.data.name = "demo"
        config.data.image_size = 96
        config.model.width = 0.25
    elif variant:
        raise ValueError(f"configs/deep_features.py has no variant '{variant}'; it has lab, demo")
    return config
