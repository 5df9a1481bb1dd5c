"""A linear head on deep features: Dense(20, sigmoid), binary cross-entropy.

    vtl linear_probe --workdir=runs/probe \\
      --config.features=runs/features/DF_ResNet50_VOC2007.npz

A variant follows a colon, as in `vtl linear_probe:lbfgs`; all are listed below. A
run takes seconds on a CPU.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is the lab's."""
    if variant not in VARIANTS:
        names = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/linear_probe.py has no variant '{variant}'; it has {names}")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "probe"
    config.variant = ""
    config.seed = 0  # of the start, the order of the rows, what is held out, and the intervals
    config.precision = "highest"  # of float32 products: default, high or highest

    config.features = ""  # the file that `vtl deep_features` or the lab's own script wrote
    config.train_split = "trainval"  # what the features' meta, if any, must say; "" accepts all
    config.test_split = "test"  # what the features' meta, if any, must say; "" accepts all
    config.weights = ""  # what the features' meta, if any, must say; "" accepts all
    config.classes = ()  # what the features' meta, if any, must say; () accepts all

    config.solver = "sgd"  # sgd, lbfgs (logistic regression) or svm (a linear one a class)
    # Of the features: none, standardise (by train), l2 (each row by its norm), or sqrt_l2 (its
    # square roots by theirs).
    config.transform = "none"
    config.scaling = ""  # the name of `transform` in vtl 0.1, read if it is not empty
    # What a class's threshold is chosen by, out of fold on train or on a val split: f1, or the
    # highest recall at a precision, as in precision:0.9.
    config.thresholds = "f1"
    # sigmoid_bce, asymmetric (Ridnik et al. 2021), focal (Lin et al. 2017), or softmax_ce for
    # photos with one label each. "" is softmax_ce where the features say that all have one, else
    # and for VOC sigmoid_bce. lbfgs takes sigmoid_bce and softmax_ce, svm has its own.
    config.loss = ""
    # balanced: rare classes, or their positives, weigh more (sgd and lbfgs).
    config.class_weights = "none"
    config.difficult = "negative"  # difficult objects in the training loss: ignore or negative

    config.num_epochs = 20.0  # sgd: passes over train
    config.batch_size = 32  # sgd: rows a step
    config.momentum = 0.0  # sgd; 0 is plain SGD
    # sgd: of several rates and decays, the best by mAP on a fifth of train is fitted to all of it.
    config.learning_rates = (0.1,)
    config.weight_decays = (0.0,)  # sgd: chosen together with the rate
    # sgd: runs from seed, seed + 1, ...; each one's mAP is recorded, and the first one's scores.
    config.num_seeds = 1

    # lbfgs: each class's L2 is chosen from these, and from what lies beyond an end that is best, by
    # cross-validation on train. It is one over (scikit-learn's C times the number of photos).
    config.l2s = (1e-3, 1e-2)
    config.num_folds = 5  # lbfgs: parts that cross-validation holds out in turn

    # svm: each class's C is that of the best AP in cross-validation on train. () tries VISSL's grid
    # and what lies beyond an end that is best; given values are all that is tried.
    config.svm_costs = ()
    config.svm_folds = 3  # svm: parts that cross-validation holds out in turn
    config.svm_positive_weight = 2.0  # svm: how much a positive counts beside a negative
    # svm: also fitted to so many drawn positives a class, with as many negatives times the other
    # classes, as in low_shot=(1,10). () is none.
    config.low_shot = ()
    config.low_shot_draws = 5  # how often for each number, from seed, seed + 1, ...
    return config


def _default(config: ConfigDict) -> None:
    """The lab's: SGD at 0.1, batches of 32, 20 epochs."""


def _lbfgs(config: ConfigDict) -> None:
    """L2-regularised logistic regression on square roots of the features.

    Cross-validation on train chooses each class's L2. With the default's features expect 3.8 points
    of mAP more than on plain averages of photos squashed to 224 pixels (photos with animals).
    """
    config.solver = "lbfgs"
    config.transform = "sqrt_l2"


VISSL_COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)


def _voc07_svm(config: ConfigDict) -> None:
    """The SVM benchmark of VISSL (Goyal et al. 2019), for features of photos squashed to 224.

    Features of norm 1, VISSL's grid of C and nothing beyond it, 3 folds. The difficult are trained
    on as negatives, as there, and left out of the AP, which is the one called voc2010. It takes
    minutes, because each class is fitted by itself for each C and fold.
    """
    config.solver = "svm"
    config.transform = "l2"
    config.svm_costs = VISSL_COSTS


def _low_shot(config: ConfigDict) -> None:
    """VISSL's low-shot benchmark: SVMs of 1 to 96 positives a class, five draws, and of all.

    The difficult are not drawn. A class with fewer positives is left out and named, where VISSL
    stops.
    """
    _voc07_svm(config)
    config.low_shot = (1, 2, 4, 8, 16, 32, 64, 96)
    config.difficult = "ignore"


def _demo(config: ConfigDict) -> None:
    """The lab's on the features of `vtl deep_features:demo`, which you run first.

    Expect an mAP (`lab`) of about 32.
    """
    config.features = "runs/features_demo/DF_ResNet50_DEMO.npz"


VARIANTS = {
    "": _default,
    "lbfgs": _lbfgs,
    "voc07_svm": _voc07_svm,
    "low_shot": _low_shot,
    "demo": _demo,
}
