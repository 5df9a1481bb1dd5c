"""The pixels that networks are trained on, and in words which a network may want."""

import dataclasses

from vtl.preprocessing import CAFFE, TORCHVISION, Preprocessing

PIXELS = {
    "torchvision": TORCHVISION,
    "caffe": CAFFE,
    "inception": dataclasses.replace(TORCHVISION, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "unit": dataclasses.replace(TORCHVISION, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
"""The pixels that networks are trained on in practice."""

DESCRIPTIONS = {
    "torchvision": "RGB/255 with torchvision's mean and std",
    "caffe": "caffe BGR, 0..255 less the mean",
    "inception": "RGB in -1..1",
    "unit": "RGB in 0..1",
}


def other_pixels(given: Preprocessing) -> dict[str, Preprocessing]:
    """In words, other pixels that the network may want."""
    others = {}
    for name, pixels in PIXELS.items():
        changed = with_pixels(given, pixels)
        if changed != given:
            text = f"runs best as {DESCRIPTIONS[name]}: the given preprocessing ({describe(given)})"
            others[f"{text} is probably wrong"] = changed
    exchanged = other_channels(given)
    return others | {runs_best_as(exchanged, given): exchanged}


def runs_best_as(exchanged: Preprocessing, given: Preprocessing) -> str:
    """In words, that red and blue are exchanged."""
    return f"runs best as {exchanged.channels.upper()}, not as {given.channels.upper()}"


def with_pixels(given: Preprocessing, pixels: Preprocessing) -> Preprocessing:
    """`given` with the channels, scale, mean and std of `pixels`."""
    return dataclasses.replace(
        given, channels=pixels.channels, scale=pixels.scale, mean=pixels.mean, std=pixels.std
    )


def other_channels(given: Preprocessing) -> Preprocessing:
    """Red and blue exchanged, each with its mean."""
    other = {"rgb": "bgr", "bgr": "rgb"}[given.channels]
    return dataclasses.replace(given, channels=other, mean=given.mean[::-1], std=given.std[::-1])


def describe(given: Preprocessing) -> str:
    """The pixels that a network gets, in a few words."""
    for name, pixels in PIXELS.items():
        if with_pixels(given, pixels) == given:
            return DESCRIPTIONS[name]
    mean, std = (", ".join(f"{x:g}" for x in values) for values in (given.mean, given.std))
    return f"{given.channels.upper()} times {given.scale:g}, mean {mean}, std {std}"
