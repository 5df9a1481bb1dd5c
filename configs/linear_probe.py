"""A linear head on deep features: Dense(20, sigmoid), binary cross-entropy.

    python -m vtl.main --config=configs/linear_probe.py --workdir=runs/probe \\
      --config.features=runs/features/DF_ResNet50_VOC2007.npz

The default is the lab's: SGD at 0.1, batches of 32, 20 epochs. `:lbfgs` is L2-regularised logistic
regression with the L2 of each class chosen by cross-validation on train. Seconds on a CPU. `:demo`
is the lab's on what `configs/deep_features.py:demo` wrote; run that first.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, `lbfgs` or `demo`, or the lab's SGD."""
    config = ConfigDict()
    config.task = "probe"
    config.variant = variant
    config.seed = 0
    config.precision = "highest"  # of float32 products: the arrays are small

    config.features = ""  # what configs/deep_features.py wrote, or the lab's own script
    # What the features' meta must say where it says anything; "" and () accept all.
    config.train_split = "trainval"
    config.test_split = "test"
    config.weights = ""
    config.classes = ()

    config.solver = "sgd"  # or lbfgs
    config.scaling = "none"  # of the features: none, standardise (by train), l2 (each row)
    config.difficult = "negative"  # in the training loss: ignore or negative

    # sgd. The best rate and decay, by mAP on a fifth of train, is fitted to all of train.
    config.num_epochs = 20.0
    config.batch_size = 32
    config.momentum = 0.0
    config.learning_rates = (0.1,)
    config.weight_decays = (0.0,)
    config.num_seeds = 1  # seed, seed + 1, ...: the mAP of each is recorded, the first one's scores

    # lbfgs. One over scikit-learn's C times the number of photos.
    config.l2s = (0.001, 0.003, 0.01, 0.03, 0.1)
    config.num_folds = 5

    if variant == "lbfgs":
        config.solver = "lbfgs"
    elif variant == "demo":
        config.features = "runs/features_demo/DF_ResNet50_DEMO.npz"
    elif variant:
        raise ValueError(f"configs/linear_probe.py has no variant '{variant}'; it has lbfgs, demo")
    return config
