"""Draws train, val and test where a data set has none, so that another photo moves no other."""

import hashlib
from collections.abc import Sequence

from vtl.errors import UserError

NAMES = ("train", "val", "test")


def place(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def drawn(groups: Sequence[str], fractions: Sequence[float]) -> list[str]:
    """The split [N] of each photo, by the hash of its group [N] alone.

    `fractions` are about the shares of train, val and test, of which train's is not 0.

    Raises:
        UserError: the fractions are not three that add up to 1, or a split that should have photos
            has none.
    """
    numbers = [float(fraction) for fraction in fractions]
    if len(numbers) != 3 or min(numbers) < 0 or not numbers[0] or abs(sum(numbers) - 1) > 1e-6:
        raise UserError(
            f"data.split_fractions are {tuple(fractions)}: give those of train, val and test, "
            "which add up to 1, such as 0.7,0.1,0.2"
        )
    until_val, until_test = numbers[0], numbers[0] + numbers[1]
    if not numbers[2]:
        until_test = 2.0  # whatever the sum's last bit is
    names = []
    for group in groups:
        where = place(group)
        names.append("train" if where < until_val else "val" if where < until_test else "test")
    missing = [n for n, share in zip(NAMES, numbers, strict=True) if share and n not in names]
    if missing:
        raise UserError(
            f"of {len(names)} photos in {len(set(groups))} groups none falls into "
            f"{' and '.join(missing)}: more photos are needed, or a `split` for each"
        )
    return names
