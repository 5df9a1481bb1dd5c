"""Exercise 0: ReLU instead of the sigmoid in a perceptron and in a convolutional network.

    vtl relu_study --workdir=runs/relu

Measures how many epochs each activation needs to converge on MNIST, at its own best learning rate
and over five seeds, with intervals, figures and the conclusions that they support. A variant
follows a colon, as in `vtl relu_study:digits`; all are listed below.

A run is measured at ten moments an epoch. There are two definitions of when it has converged:
- at the first moment at which accuracy on the held-out digits reaches a threshold (95, 97, 98 %),
- at the first moment at which the loss on them is within 1 % of its lowest value. If the lowest
  value is in the last epoch, the run has not converged yet.
A run that has not converged counts as ">N" epochs, in medians and intervals too.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant; the default is the study on MNIST."""
    if variant not in VARIANTS:
        names = ", ".join(name for name in VARIANTS if name)
        raise ValueError(f"configs/relu_study.py has no variant '{variant}'; it has {names}")
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
    # Activations of flax.linen that map one number to one number; the others are compared with the
    # first.
    config.activations = ("sigmoid", "tanh", "relu")
    # How kernels start: glorot_uniform, he_normal, lecun_normal, or suited, which picks the one for
    # each activation (glorot_uniform for tanh and its like, four times that for sigmoid, he_normal
    # for ReLU and its like, lecun_normal for selu).
    config.initialisation = "suited"
    config.dense_activation = ""  # of LeNet's hidden dense layer; "" is that of its convolutions

    config.batch_size = 128  # digits a step
    config.seeds = (1, 2, 3, 4, 5)  # of start and order of batches, the same for all activations
    # Seeds with which every rate of the grid is tried. The best rate has the fewest epochs to
    # main_threshold (their median), then the lowest held-out loss. (0, 1, 2, 3, 4, 5) is the full
    # grid, for a GPU: about three hours on 2 CPU cores.
    config.rate_seeds = (0,)

    config.measurements_per_epoch = 10  # moments of an epoch at which held-out digits are scored
    config.thresholds = (0.95, 0.97, 0.98)  # held-out accuracies; the time to each is measured
    config.main_threshold = 0.97  # one of thresholds: chooses the rate and draws the conclusion
    config.loss_tolerance = 0.01  # a loss has converged within this share of its lowest value
    config.num_resamples = 10_000  # of the bootstrap over seeds

    config.data = ConfigDict()
    config.data.name = "mnist"  # mnist or digits
    config.data.root = ""  # the directory of the four IDX files; "" is the cache
    config.data.num_held_out = 3000  # training digits that are held out

    config.perceptron = ConfigDict()
    config.perceptron.num_epochs = 30.0  # passes over the training digits
    # The grid of rates, from which each activation gets its best.
    config.perceptron.learning_rates = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    config.perceptron.num_hidden = 100  # units of the hidden layer

    config.lenet = ConfigDict()
    config.lenet.num_epochs = 12.0  # passes over the training digits
    config.lenet.learning_rates = (0.1, 0.3, 1.0, 2.0)  # the grid of rates
    config.lenet.num_hidden = 100  # units of the hidden dense layer
    config.lenet.kernel_size = 5  # pixels on each side of a convolution's kernel
    config.lenet.padding = 0  # pixels on each side of a convolution's input
    return config


def _default(config: ConfigDict) -> None:
    """MNIST, which is fetched into the cache (12 MB) or read from `--config.data.root`.

    Takes about an hour on 2 CPU cores. Expect the perceptron to name 97 % of the test digits right,
    and LeNet 98.4 %.
    """


def _digits(config: ConfigDict) -> None:
    """scikit-learn's 1,797 digits of 8 x 8 pixels: needs no download, takes two to three minutes.

    LeNet's convolutions are 3 x 3 here.
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

    In LeNet only the convolutions change; the dense layer keeps its sigmoid.
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
