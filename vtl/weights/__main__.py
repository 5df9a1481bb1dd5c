"""Weight files on the command line.

    python -m vtl.weights list                       the sources that vtl knows
    python -m vtl.weights fetch NAME ...             download them, or check what is there
    python -m vtl.weights inspect FILE               what a file holds
    python -m vtl.weights summary FILE               its network, layer by layer
    python -m vtl.weights convert FILE -o OUT        to safetensors, with preprocessing inside
    python -m vtl.weights verify FILE                is it read right, and does it work?
    python -m vtl.weights classify FILE PHOTO ...    the five likeliest classes of photos

FILE is a weight file, the name of a source, or the directory of a finished run.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from flax import traverse_util

from vtl import disks, files
from vtl.errors import UserError
from vtl.models import resnet
from vtl.models.architecture import Architecture
from vtl.predict import likeliest, photos
from vtl.predict.predictor import Predictor
from vtl.preprocessing import Preprocessing
from vtl.untrusted import open_plain, printable, reading
from vtl.weights import (
    extracts,
    formats,
    frameworks,
    metadata,
    network,
    sources,
    summary,
    verify,
)

MOST_NAMES = 100
"""Class names that are shown."""

MAX_NAMES_BYTES = 1 << 24

_MARKS = {"good": "ok   ", "note": "note ", "fault": "FAULT"}


def list_sources(options: argparse.Namespace) -> None:
    """Print one line per source, with the path of its file if it is here."""
    del options
    row = "{:<24}{:<25}{:>6}{:>9}  {:<13}{:<33}{}"
    print(row.format("name", "network", "top-1", "size", "licence", "preprocessing", "here"))
    for name, source in sources.SOURCES.items():
        path = sources.place(source)
        here = path if path.exists() else "-"
        top1 = "-" if source.top1 is None else f"{source.top1:.2f}"
        size = f"{sources.size_bytes(source) / 1e6:.0f} MB"
        pixels = _in_words(source.preprocessing)
        print(row.format(name, source.network, top1, size, source.licence, pixels, here))
    print(
        "\ntop-1 is in percent on ImageNet, as the publisher states it for this preprocessing;\n"
        "- means unknown. That of `demo` is on its own pictures."
    )


def _in_words(preprocessing: Preprocessing) -> str:
    kind = "other"
    for name, pixels in verify.PIXELS.items():
        if verify.with_pixels(preprocessing, pixels) == preprocessing:
            kind = name
            break
    size = f"{preprocessing.crop_size}"
    if preprocessing.resize != "squash":
        size = f"{preprocessing.resize_size} > {size}"
    return f"{kind}, {preprocessing.interpolation} {size}"


def fetch_sources(options: argparse.Namespace) -> None:
    """Download the sources that are not here yet, check them, and print where they are."""
    for name in options.names:
        if name not in sources.SOURCES:
            raise UserError(sources.no_source(name))
        path = sources.locate(name)
        print(f"{name}: {path}, {path.stat().st_size:,} bytes, sha256 {files.file_sha256(path)}")


def inspect(options: argparse.Namespace) -> None:
    """What a file holds, and what is unusual about it."""
    contents = formats.survey(sources.locate(options.file))
    seen = frameworks.look(contents)
    try:
        weights = sources.of(options.file, contents, must_work=False)
    except UserError as error:
        reason = str(error).splitlines()[0].removeprefix(f"{contents.path}: ")
        _print_lines({"file": contents.path, "format": contents.format, "as it is": reason})
        _print_seen(contents, seen)
        if all(found.complaint for found in seen.networks):
            raise
        return
    architecture, tensors = weights.architecture, weights.tensors
    statistics = sum(t.size for name, t in tensors.items() if name.startswith("batch_stats"))
    parameters = sum(t.size for t in tensors.values()) - statistics
    source = sources.known_as(weights.path, weights.sha256)
    lines = {
        "file": weights.path,
        "format": f"{weights.format}, stored as {', '.join(weights.dtypes)}",
        "network": ", ".join(filter(None, (architecture.title, architecture.details))),
        "classes": architecture.num_classes or "none: there is no head",
        "parameters": f"{parameters:,}, and {statistics:,} running statistics",
        "preprocessing": _describe(weights.preprocessing),
        "sha256": weights.sha256 + (f" ({source})" if source else ""),
    }
    if weights.given_by != "the file itself":
        lines["from"] = weights.given_by
    if weights.classes:
        lines["class names"] = f"{_some(weights.classes)} ({_kind(weights)} per photo)"
    elif weights.multi_label:
        lines["class names"] = "none are stated (several per photo)"
    if own := weights.decisions:
        lines["thresholds"] = f"by {printable(own.rule)}, chosen on {printable(own.chosen_on)}"
    if not architecture.has_plain_head:
        lines["head"] = network.describe_head(architecture)
    _print_lines(lines)
    _print_seen(contents, seen if seen.frameworks else frameworks.NOTHING)
    for finding in verify.static(weights):
        print(f"{_MARKS[finding.kind]} {finding.text}")


def _print_lines(lines: dict[str, object]) -> None:
    for what, value in lines.items():
        print(f"{what + ':':<15}{value}")


def _print_seen(contents: formats.Contents, seen: frameworks.Seen) -> None:
    """The training that wrote a file, and for each network in it the command that takes it out."""
    lines: dict[str, object] = {}
    if seen.frameworks:
        lines["saved by"] = seen.names
    if contents.skipped:
        lines["not read"] = f"{_some(contents.skipped)} (nothing of it was run)"
    for key, count in contents.lists.items():
        lines["no names"] = f"{printable(key, 60)}, a list of {count} tensors"
    _print_lines(lines)
    for found in seen.networks:
        line = found.complaint or frameworks.command(contents.path, found.selection)
        if not line.isprintable():  # nobody could type it
            line = f"its names can't be printed: {printable(line, 200)}"
        print(f"{printable(frameworks.reason(found), 200)} ({found.num_tensors} tensors):")
        print(f"    {line}")


def _kind(weights: sources.Weights) -> str:
    return "several" if weights.multi_label else "one"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(printable(name, 60) for name in names[:MOST_NAMES]) + more


def _describe(p: Preprocessing) -> str:
    stored = p.stored_size(crops=False)
    seen = f", the central {p.crop_size} are seen" if stored != p.crop_size else ""
    return f"{verify.describe(p)}; {p.interpolation} {p.resize} to {stored}{seen}"


def convert(options: argparse.Namespace) -> None:
    """Write safetensors under the names of its origin, with what belongs to the weights inside."""
    selection = extracts.Selection(options.key, options.prefix, options.drop)
    contents = formats.survey(sources.locate(options.file))
    weights = sources.of(options.file, contents, selection=selection)
    network.as_published(weights)  # UserError if tensors are missing or misshapen
    preprocessing, architecture = weights.preprocessing, weights.architecture
    if options.preprocessing:
        pixels = verify.PIXELS[options.preprocessing]
        preprocessing = verify.with_pixels(preprocessing, pixels)
    if options.channels:
        preprocessing = dataclasses.replace(preprocessing, channels=options.channels)
    architecture = _changed(architecture, options)
    paths = {tuple(name.split("/")): tensor for name, tensor in weights.tensors.items()}
    try:
        sources.save(
            options.output,
            traverse_util.unflatten_dict(paths),
            architecture,
            preprocessing,
            _named(options.classes, architecture.num_classes) or weights.classes,
            multi_label=weights.multi_label,
            decisions=weights.decisions,
            dtype=options.dtype,
        )
    except OverflowError as error:
        raise UserError(f"cannot write {options.output}: {error}") from error
    for line in weights.left_out:
        print(line)
    print(f"{options.output}: {options.output.stat().st_size:,} bytes")


def _changed(architecture: Architecture, options: argparse.Namespace) -> Architecture:
    """The architecture as --variant and --epsilon say."""
    if options.variant:
        if not isinstance(architecture, resnet.Architecture):
            raise UserError(f"--variant is for ResNets, and this is a {architecture.title}")
        if not resnet.DEPTHS[architecture.depth].bottleneck:
            raise UserError(
                f"--variant is for ResNet-50 and deeper; a ResNet-{architecture.depth} is the same "
                "in v1 and v1.5"
            )
        architecture = dataclasses.replace(architecture, variant=options.variant)
    if options.epsilon is None:
        return architecture
    if architecture.batch_norm_epsilon is None:
        raise UserError(f"--epsilon is BatchNorm's, and a {architecture.title} has none")
    changes: dict[str, Any] = {"epsilon": options.epsilon}
    return dataclasses.replace(architecture, **changes)


def _named(path: Path | None, num_classes: int | None) -> tuple[str, ...] | None:
    """The names in a file, one a line, in the order of the head's columns."""
    if path is None:
        return None
    with open_plain(path, max_bytes=MAX_NAMES_BYTES) as file, reading(path):
        names = [line.strip() for line in file.read().decode("utf-8-sig").splitlines()]
    names = [name for name in names if name]
    if len(set(names)) != len(names):
        raise UserError(f"--classes: {printable(path)} names a class twice")
    try:
        return metadata.class_names(names, num_classes or -1)
    except ValueError:
        raise UserError(
            f"--classes: {printable(path)} has {len(names)} names, and the head has "
            f"{num_classes or 'no'} classes"
        ) from None


def verify_file(options: argparse.Namespace) -> None:
    """Print the verdict; exit status 1 if something is wrong."""
    weights = sources.load(options.file, must_work=False)
    print("asking the network about photos; this takes up to a minute", file=sys.stderr)
    findings = verify.verify(weights)
    for finding in findings:
        print(f"{_MARKS[finding.kind]} {finding.text}")
    if any(finding.kind == "fault" for finding in findings):
        print(
            "`vtl weights convert -h` shows how to write it with other pixels or another stride",
            file=sys.stderr,
        )
        sys.exit(1)


def classify(options: argparse.Namespace) -> None:
    """Print the five likeliest classes of each photo, as `vtl predict` does."""
    predictor = Predictor.load(options.file)
    photos.check(options.photos)
    tally = likeliest.show(predictor, photos.stream(options.photos))
    if tally.num_broken:
        raise UserError(tally.complaint())


def summarise(options: argparse.Namespace) -> None:
    """Print the network as a table."""
    weights = sources.load(options.file)
    model, _ = network.as_published(weights)
    has_head = weights.architecture.num_classes is not None
    print(summary.summary(model, weights.preprocessing.crop_size, has_head=has_head))
    if has_head and not weights.architecture.has_plain_head:
        print(f"the head sees {network.describe_head(weights.architecture)}")


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        # `vtl weights` says so itself.
        prog=sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("list", help="the sources that vtl knows")
    command.set_defaults(run=list_sources)
    command = commands.add_parser("fetch", help="download sources")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.set_defaults(run=fetch_sources)
    file_commands = {
        "inspect": (inspect, "what a file holds"),
        "summary": (summarise, "a table of the network, like model.summary()"),
        "convert": (convert, "to safetensors, with preprocessing inside"),
        "verify": (verify_file, "is it read right, and does it work?"),
        "classify": (classify, "the five likeliest classes of photos"),
    }
    for name, (function, text) in file_commands.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("file", metavar="FILE", help="a file, a source, or a finished run")
        command.set_defaults(run=function)
        if name == "classify":
            command.add_argument("photos", nargs="+", metavar="PHOTO")
        if name == "convert":
            _add_convert_options(command)
    options = parser.parse_args()
    try:
        with disks.refusals(getattr(options, "output", "a file")):
            options.run(options)
    except UserError as error:
        sys.exit(f"vtl: {error}")


def _epsilon(text: str) -> float:
    if not 0 < float(text) < 1:
        raise ValueError
    return float(text)


def _add_convert_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", required=True, type=files.user_path, metavar="OUT")
    command.add_argument(
        "--key", default="", help="of the dict that holds the network, such as teacher"
    )
    command.add_argument(
        "--prefix",
        default="",
        help="what stands before the network's names, such as module.; others are left out",
    )
    command.add_argument(
        "--drop",
        default="",
        metavar="PATTERN",
        help="a regular expression of names to leave out: `fc|queue` drops fc.0.weight and queue",
    )
    command.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    command.add_argument("--preprocessing", choices=verify.PIXELS, help="instead of the file's")
    command.add_argument("--channels", choices=("rgb", "bgr"), help="instead of the file's")
    command.add_argument("--variant", choices=resnet.VARIANTS, help="where the stride is")
    command.add_argument("--epsilon", type=_epsilon, help="BatchNorm's")
    command.add_argument(
        "--classes",
        type=files.user_path,
        metavar="NAMES",
        help="a text file: the head's classes, one a line",
    )


if __name__ == "__main__":
    with stops.in_one_line():
        main()
