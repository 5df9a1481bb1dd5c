"""Networks in Flax Linen: modules only, no I/O and no weights."""

HEAD = "fc"
"""The key in `params` of every network's last layer, the dense one over the classes."""
