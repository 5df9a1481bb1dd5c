"""Networks in Flax Linen: modules and nothing else, no I/O and no weights."""

HEAD = "fc"
"""The name of every network's last layer, a dense one over the classes, in its `params`."""
