"""Exercise 0: the sigmoid replaced by ReLU in a perceptron and in a convolutional network.

    vtl relu_study --workdir=runs/relu

How many epochs each activation needs to converge on MNIST, at its own best learning rate and over
five seeds, with intervals, figures and the sentence that they support. A variant follows a colon,
as in `vtl relu_study:digits`; each says below what it is.

A run has converged, by each of these definitions, at the first of ten moments an epoch at which
- accuracy on the held-out digits is at least a threshold: 95, 97 and 98 %,
- the loss there is within 1 % of its lowest; where that is in the last epoch, it has not yet.
A run that does not counts as ">N" epochs, in medians and intervals too.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is the study on MNIST."""
    if variant not in VARIANTS:
        known = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/relu_study.py has no variant '{variant}'; it has {known}")
    config = _base()
    config.variant = variant
    VARIANTS[variant](config)
    return config


def _base() -> ConfigDict:
    config = ConfigDict()
    config.task = "relu_study"
    config.variant = ""
    config.seed = 0  # of the held-out digits and of the intervals
    config.precision = "highest"  # of float32 products

    config.networks = ("perceptron", "lenet")  # one of them, or both
    # Any of flax.linen that take one number and give one; the first is what the others are compared
    # with.
    config.activations = ("sigmoid", "tanh", "relu")
    # What kernels start from: glorot_uniform, he_normal, lecun_normal, or for each activation the
    # one that suits it (glorot_uniform for tanh and its like, four times that for sigmoid,
    # he_normal for ReLU and its like, lecun_normal for selu).
    config.initialisation = "suited"
    config.dense_activation = ""  # of the network's hidden dense layer; "": as the convolutions

    config.batch_size = 128  # digits a step
    config.seeds = (1, 2, 3, 4, 5)  # of start and order of batches, the same for all activations
    # Every rate of the grid is tried with these seeds; chosen is the one with the fewest epochs to
    # main_threshold (their median), then the lowest held-out loss. (0, 1, 2, 3, 4, 5) is the full
    # grid, for a GPU: about three hours on 2 CPU cores.
    config.rate_seeds = (0,)

    config.measurements_per_epoch = 10  # moments of an epoch at which held-out digits are scored
    config.thresholds = (0.95, 0.97, 0.98)  # of held-out accuracy, at each of which times are taken
    config.main_threshold = 0.97  # of these: chooses the rate and draws the conclusion
    config.loss_tolerance = 0.01  # a loss has converged that is within this share of its lowest
    config.num_resamples = 10_000  # of the bootstrap over seeds

    config.data = ConfigDict()
    config.data.name = "mnist"  # mnist or digits
    config.data.root = ""  # the directory of the four IDX files; "": the cache
    config.data.num_held_out = 3000  # of the training digits

    config.perceptron = ConfigDict()
    config.perceptron.num_epochs = 30.0  # passes over the training digits
    # The grid of rates, of which each activation takes its best.
    config.perceptron.learning_rates = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    config.perceptron.num_hidden = 100  # units of the hidden layer

    config.lenet = ConfigDict()
    config.lenet.num_epochs = 12.0  # passes over the training digits
    config.lenet.learning_rates = (0.1, 0.3, 1.0, 2.0)  # the grid of rates, as the perceptron's
    config.lenet.num_hidden = 100  # units of the hidden dense layer
    config.lenet.kernel_size = 5  # pixels on each side of a convolution's kernel
    config.lenet.padding = 0  # pixels on each side of a convolution's input
    return config


def _default(config: ConfigDict) -> None:
    """MNIST, which is fetched into the cache (12 MB) or read from `--config.data.root`.

    About an hour on 2 CPU cores; expect 97 % of the perceptron's test digits named right and 98.4 %
    of the network's.
    """


def _digits(config: ConfigDict) -> None:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: nothing to fetch, about a minute.

    The network's convolutions are 3 x 3 here.
    """
    config.batch_size = 32
    config.thresholds = (0.9, 0.95, 0.97)
    config.main_threshold = 0.95
    config.data.name = "digits"
    config.data.num_held_out = 300
    config.perceptron.num_epochs = 40.0
    config.perceptron.learning_rates = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    config.lenet.learning_rates = (0.05, 0.1, 0.3, 1.0, 2.0)
    config.lenet.num_epochs = 30.0
    config.lenet.kernel_size = 3
    config.lenet.padding = 1


def _lab(config: ConfigDict) -> None:
    """The hand-out to the letter: one learning rate for both activations.

    In the network only the convolutions change, the dense layer stays a sigmoid.
    """
    config.activations = ("sigmoid", "relu")
    config.initialisation = "glorot_uniform"  # Keras' default
    config.dense_activation = "sigmoid"
    config.perceptron.learning_rates = (0.1,)
    config.lenet.learning_rates = (0.1,)


def _lab_digits(config: ConfigDict) -> None:
    """The hand-out to the letter, on scikit-learn's digits."""
    _digits(config)
    _lab(config)


VARIANTS = {
    "": _default,
    "digits": _digits,
    "lab": _lab,
    "lab_digits": _lab_digits,
}
