"""Visual transfer learning in JAX: an ImageNet ResNet-50 taken to other people's labels."""

__version__ = "0.2.0"
