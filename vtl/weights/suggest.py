"""What may have been meant by weights that are not there: three short lines, never a long one."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from vtl.files import user_path
from vtl.untrusted import printable

WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".h5", ".hdf5", ".keras")
"""How the names of weight files end, as people write them."""

_BY_CONSENT = {"dinov3": "hf.co/facebook/dinov3-vits16-pretrain-lvd1689m"}
"""Networks that only who consents to a licence may download, and where."""

_MOST = 4
_MAX_LISTED = 1000


def absent(name: str, path: Path, networks: Mapping[str, str]) -> str:
    """What to say if there are no weights of this name, nor a file at `path`.

    `networks` are those of the sources, by name.
    """
    shown = f"weights={printable(name, 100)}"
    folder = user_path(name)
    with contextlib.suppress(OSError):
        if folder.is_dir():
            return "\n".join([f"{shown}: no model.safetensors there", *_lying(folder, "")])
    lines = [f"{shown}: no such file or finished run, nor a source"]
    if _is_path(name):
        lines += _lying(path.parent, path.name)
    return "\n".join([*lines, *no_source(name, networks)][:3])


def no_source(name: str, networks: Mapping[str, str]) -> list[str]:
    """Which sources may have been meant, and where all are named."""
    close, lines = _close_sources(name, networks), _by_consent(name)
    if close and not lines:
        lines = [f"did you mean {_one_of(close)}?"]
    return [*lines, f"`vtl weights list` names all {len(networks)} sources"]


def _by_consent(name: str) -> list[str]:
    """What to do for a network that vtl may not fetch, as a line; [] for others and for files."""
    if name.lower().endswith(WEIGHT_FILES):
        return []
    found = (where for network, where in _BY_CONSENT.items() if network in _letters(name))
    return [f"download it by consent to its licence ({at}) and give the file" for at in found]


def _is_path(name: str) -> bool:
    return os.sep in name or name.lower().endswith(WEIGHT_FILES)


def _close_sources(name: str, networks: Mapping[str, str]) -> list[str]:
    """Sources with nearly that name, or of the network that it names."""
    if _is_path(name):
        return []
    low = name.lower().replace("-", "_")
    if close := difflib.get_close_matches(low, networks, n=_MOST, cutoff=0.7):
        return close
    titles = {source: _letters(title) for source, title in networks.items()}
    named = [source for source, title in titles.items() if title in _letters(low)]
    longest = max((len(titles[source]) for source in named), default=0)
    close = [source for source in named if len(titles[source]) == longest]
    publisher = [source for source in close if source.partition("_")[0] in low]
    return (publisher or close)[:_MOST]


def _letters(text: str) -> str:
    """`ResNet-50` -> `resnet50`."""
    return re.sub("[^a-z0-9]", "", text.lower())


def _lying(folder: Path, name: str) -> list[str]:
    """The weight files in a folder, the likeliest first, as a line; [] if there are none."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for _, entry in zip(range(_MAX_LISTED), entries, strict=False):
            if entry.name.lower().endswith(WEIGHT_FILES):
                found.append(entry.name)
    close = difflib.get_close_matches(name, found, n=_MOST, cutoff=0.6) if name else []
    names = close or ([] if name else sorted(found)[:_MOST])
    return [f"there is {_one_of(printable(n, 60) for n in names)}"] if names else []


def _one_of(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
