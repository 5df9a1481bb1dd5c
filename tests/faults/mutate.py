"""Seeded damage to the bytes of a file: what disks, networks and hostile people do."""

import re

import numpy as np


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content after one to three changes."""
    for _ in range(int(rng.integers(1, 4))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        content = change(content, rng)
    return content


def _place(content: bytes, rng: np.random.Generator) -> int:
    """Half of the time within the first kilobyte, where headers are."""
    end = len(content) if rng.random() < 0.5 else min(len(content), 1024)
    return int(rng.integers(end + 1))


def _flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    if changed:
        place = min(_place(content, rng), len(changed) - 1)
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def _zeros(content: bytes, rng: np.random.Generator) -> bytes:
    place, length = _place(content, rng), int(rng.integers(1, 600))
    return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]


def _again(content: bytes, rng: np.random.Generator) -> bytes:
    place, length = _place(content, rng), int(rng.integers(1, 4000))
    return content[: place + length] + content[place:]


def _lost(content: bytes, rng: np.random.Generator) -> bytes:
    place, length = _place(content, rng), int(rng.integers(1, 600))
    return content[:place] + content[place + length :]


def _noise(content: bytes, rng: np.random.Generator) -> bytes:
    place = _place(content, rng)
    noise = rng.bytes(int(rng.integers(1, 64)))
    return content[:place] + noise + content[place + len(noise) :]


def _large_integer(content: bytes, rng: np.random.Generator) -> bytes:
    place, width = _place(content, rng), int(rng.choice([2, 4, 8]))
    value = int(rng.choice([0xFF, 0x7F, 0x80])).to_bytes(1, "big") + b"\xff" * (width - 1)
    number = value if rng.random() < 0.5 else value[::-1]
    return content[:place] + number + content[place + width :]


def _large_digits(content: bytes, rng: np.random.Generator) -> bytes:
    """Another number in place of one in text: a shape, a size, an offset."""
    numbers = list(re.finditer(rb"-?\d+", content[:100_000]))
    if not numbers:
        return _noise(content, rng)
    match = numbers[int(rng.integers(len(numbers)))]
    value = rng.choice([b"-1", b"0", b"1000000000", b"99999999999999999999", b"1e400", b"NaN"])
    return content[: match.start()] + bytes(value) + content[match.end() :]


WORDS = (
    *(b"\x1b[2J", b"../../", b"/etc/passwd", b"\x00", b"\xff\xfe", b"<!ENTITY a '&a;&a;'>"),
    *(b"null", b"{}", b"[[[[", b'"', b"\n", b"\xe2\x80\xae"),
)


def _words(content: bytes, rng: np.random.Generator) -> bytes:
    """Text that means something to a terminal, a shell, a parser or a file system."""
    place, word = _place(content, rng), WORDS[int(rng.integers(len(WORDS)))]
    return content[:place] + word + content[place:]


CHANGES = (
    *(_flip, _cut, _zeros, _again, _lost, _noise, _large_integer, _large_digits, _words),
    *(_flip, _large_integer, _large_digits),  # what parsers trip over most
)
