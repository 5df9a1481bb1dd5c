"""A trained network as a file for other programs, tried in them before it is given out.

    vtl export RUN -o model.onnx                     ONNX Runtime, OpenVINO
    vtl export RUN -o model.onnx --resize            photos of any size go in
    vtl export RUN -o model.onnx --dtype=int8 --photos FOLDER
    vtl export RUN -o model.stablehlo                JAX without vtl
    vtl export RUN -o model.safetensors              torchvision, timm (or model.pth)

RUN is the directory of a finished fine-tuning or probe, a weight file, or the name of a source.
Beside the file come a model card, README.md, and for torchvision and timm a config.json.
"""

from vtl import stops

if __name__ == "__main__":
    stops.exit_at_once()  # before the imports below, which take seconds

import argparse
import dataclasses
import sys
import textwrap
from typing import Any

import vtl
from vtl import disks
from vtl.errors import UserError
from vtl.export import (
    beside,
    card,
    check,
    formats,
    labelled,
    photos,
    quantise,
    reference,
    run_facts,
)
from vtl.files import user_path, whole_file
from vtl.untrusted import printable
from vtl.weights import network, sources
from vtl.weights.sources import Weights

DTYPES = ("float32", "float16", "int8")


def main(arguments: list[str] | None = None) -> int:
    """Export a network; the exit status is 0 if the file was tried and written."""
    options = _parse(arguments)
    try:
        with disks.refusals(options.output):
            _export(options)
    except UserError as error:
        print(f"vtl: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        # `vtl export` says so itself.
        prog=sys.argv[0] if sys.argv[0].startswith("vtl ") else "python -m vtl.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", metavar="RUN|FILE", help="a finished run, a weight file or a source")
    add("-o", "--output", required=True, type=user_path, metavar="OUT", help="what to write")
    add("--weights", default="", metavar="FILE", help="where a probe's network is now")
    add("--resize", action="store_true", help="of .onnx: resize photos of any size in the file")
    add("--dtype", choices=DTYPES, default="float32", help="of .onnx: that of the convolutions")
    add("--photos", nargs="+", default=[], metavar="PHOTO", help="photos or folders to try it on")
    add("--num-photos", type=int, default=200, metavar="N", help="at most; the default is 200")
    add("--unchecked", action="store_true", help="write it without having run it")
    add("--overwrite", action="store_true", help="replace a file that vtl export didn't write")
    return parser.parse_args(arguments)


def _export(options: argparse.Namespace) -> None:
    suffix = formats.suffix_of(options.output)
    _check_options(options, suffix)
    beside.check_place(options.output, overwrite=options.overwrite)
    run = run_facts.read(options.name)
    weights = reference.load(options.name, options.weights)
    tried_on = _photos(options, run, weights)
    made = _make(options, suffix, weights)
    facts, tried = _facts(options, weights, run), []
    if options.unchecked:
        facts["check"] = "unchecked"
        tried.append("It was not run before it was written (--unchecked).")
    else:
        checked = _check(made, weights, tried_on, options)
        facts["check"] = [comparison.record() for comparison in checked]
        tried += [comparison.words() for comparison in checked]
    if options.resize:
        made = formats.to_onnx(weights, options.output, resizes=True)
    if options.dtype != "float32":
        made, cost = _smaller(options, made, weights, run, tried_on)
        facts["cost"] = cost.comparison.record() | {"map_difference": cost.difference}
        tried += [f"{options.dtype}: {line}" for line in cost.words()]
    content = made.content(facts)
    with whole_file(options.output) as file:
        file.write(content)
    print(f"{printable(options.output)}: {len(content):,} bytes")
    print("\n".join([*tried, *made.notes]))
    _write_beside(options, made, weights, run, tried)
    print("To run it:\n" + textwrap.indent(next(iter(made.usage.values())), "    "), end="")


def _check_options(options: argparse.Namespace, suffix: str) -> None:
    if suffix != ".onnx" and (options.resize or options.dtype != "float32"):
        raise UserError(f"--resize and --dtype are for .onnx files, not for {suffix}")
    if options.dtype == "int8" and not options.photos:
        raise UserError(
            "--dtype=int8 measures its scales on photos: give some like those that it will see\n"
            "as in --photos FOLDER; a hundred are enough."
        )
    if options.dtype != "float32" and options.resize:
        raise UserError(
            f"--dtype={options.dtype} and --resize don't go together: resize outside the file"
        )
    if options.dtype != "float32" and options.unchecked:
        raise UserError(f"--dtype={options.dtype} is measured: it can't be --unchecked")
    if options.num_photos < 1:
        raise UserError(f"--num-photos must be at least 1, got {options.num_photos}")


def _photos(
    options: argparse.Namespace, run: run_facts.Run | None, weights: Weights
) -> photos.Photos:
    if options.photos:
        return photos.given(options.photos, weights.preprocessing, options.num_photos)
    # A gallery's thumbnails are too small to show how photos are resized.
    gallery = None if options.resize else run_facts.gallery_of(run)
    if gallery:
        return photos.of_gallery(gallery, weights.preprocessing)
    return photos.built_in(weights.preprocessing)


def _make(options: argparse.Namespace, suffix: str, weights: Weights) -> formats.Made:
    if suffix == ".onnx":
        return formats.to_onnx(weights, options.output)
    if suffix == ".stablehlo":
        return formats.to_stablehlo(weights, options.output)
    return formats.to_torch(weights, options.output)


def _check(
    made: formats.Made,
    weights: Weights,
    tried_on: photos.Photos,
    options: argparse.Namespace,
) -> list[check.Comparison]:
    """The file in its runtime beside vtl, in float32."""
    runtime, predict = made.runtime(), made.predictor()
    ours = reference.predictor(weights)(tried_on.crops)
    source = tried_on.source
    comparison = check.compare(runtime, ours, predict(tried_on.crops), weights, source)
    check.refuse_other(comparison)
    if not options.resize:
        return [comparison]
    resizing = formats.to_onnx(weights, options.output, resizes=True).predictor()
    theirs = reference.joined([resizing(picture()[None]) for picture in tried_on.pictures])
    source = f"{source} at their own sizes, resized in the file and by Pillow"
    of_photos = check.compare(runtime, ours, theirs, weights, source)
    check.refuse_other(of_photos, check.RESIZE_LIMIT)
    return [comparison, of_photos]


def _facts(
    options: argparse.Namespace, weights: Weights, run: run_facts.Run | None
) -> dict[str, Any]:
    """What a file's metadata says of the network."""
    own, origin = weights.decisions, run_facts.origin(weights, run)
    return {
        "vtl": vtl.__version__,
        "network": weights.architecture.title,
        "head": network.describe_head(weights.architecture),
        "classes": list(sources.class_names(weights)),
        "activation": "sigmoid" if weights.multi_label else "softmax",
        "thresholds": list(own.thresholds) if own else None,
        "calibration": dataclasses.asdict(own) if own else None,
        "preprocessing": dataclasses.asdict(weights.preprocessing),
        "resizes": options.resize,
        "dtype": options.dtype,
        "weights_sha256": weights.sha256,
        "weights": origin[0],
        "licence": origin[1],
    }


def _smaller(
    options: argparse.Namespace,
    whole: formats.Made,
    weights: Weights,
    run: run_facts.Run | None,
    tried_on: photos.Photos,
) -> tuple[formats.Made, quantise.Cost]:
    """The network in a smaller dtype, and what that costs beside the float32 `whole`."""
    if options.dtype == "int8":
        made = formats.to_int8(whole, weights, options.output, tried_on.crops)
    else:
        made = formats.to_onnx(weights, options.output, dtype=options.dtype)
    classes, source = sources.class_names(weights), tried_on.source
    if options.dtype == "int8":
        source += ", the same that its scales come from"
    try:
        known = labelled.of_run(run, classes, weights.preprocessing, options.num_photos)
    except UserError as error:
        print(f"no labels: {str(error).splitlines()[0]}", file=sys.stderr)
        known = None
    cost = quantise.cost_of(
        whole.runtime(),
        whole.predictor(),
        made.predictor(),
        weights,
        tried_on.crops,
        source,
        known,
        classes,
    )
    return made, cost


def _write_beside(
    options: argparse.Namespace,
    made: formats.Made,
    weights: Weights,
    run: run_facts.Run | None,
    tried: list[str],
) -> None:
    if made.config is not None:
        place = beside.write_config(options.output, made.config)
        moved = "" if place.name == "config.json" else ": timm wants it as config.json"
        print(f"config for timm: {printable(place)}{moved}")
    page = card.Card(
        options.output,
        options.name,
        sources.class_names(weights),
        run,
        run_facts.origin(weights, run),
        tried,
        made.usage,
        made.notes,
    )
    place = beside.write_card(options.output, card.text(page, weights))
    moved = "" if place.name == "README.md" else ": README.md is about something else"
    print(f"model card: {printable(place)}{moved}")


if __name__ == "__main__":
    with stops.in_one_line():
        sys.exit(main())
