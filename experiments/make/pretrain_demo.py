"""Ship the network of configs/pretrain_demo.py as vtl/weights/demo.safetensors, with its record.

    python -m vtl.main --config=configs/pretrain_demo.py --workdir=runs/pretrain_demo
    python -m experiments.make.pretrain_demo --run=runs/pretrain_demo

The training takes half an hour on 2 CPU cores. Writes experiments/make/pretrain_demo.csv: the share
of 2,000 held-out pictures that are named right, by epoch of 20,000 pictures. Copy the sha256 and
the last share to vtl/weights/sources.py.
"""

import argparse
import json
import shutil
from pathlib import Path

from configs import pretrain_demo as pretrain_config
from experiments import grid, tables
from vtl import files
from vtl.weights import sources


def main() -> None:
    """Copy the network and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/pretrain_demo"))
    options = parser.parse_args()
    results = grid.outcome(options.run)
    config = json.loads((options.run / "config.json").read_text())
    if results.get("status") != "finished" or config != json.loads(
        pretrain_config.get_config().to_json()
    ):
        raise SystemExit(f"{options.run} is not a finished run of configs/pretrain_demo.py")
    target = Path(sources.__file__).with_name(sources.SOURCES["demo"].download.filename)
    shutil.copyfile(options.run / "model.safetensors", target)
    sha256 = files.file_sha256(target)
    lines = [json.loads(x) for x in (options.run / "metrics.jsonl").read_text().splitlines()]
    rows = [
        {
            "pictures": line["step"] * config["batch_size"],
            "top1": round(100 * line["top1"], 2),
            "pictures_per_second": round(line["images_per_second"]) if line["step"] else "",
            "total_seconds": round(results["seconds"]["total"]),
            "sha256": sha256,
            "commit": results["commit"],
        }
        for line in lines
        if "top1" in line
    ]
    tables.write_csv(Path(__file__).with_suffix(".csv"), rows)
    print(f"sha256 {sha256}, top-1 {rows[-1]['top1']}, {results['seconds']['total']:.0f} s")


if __name__ == "__main__":
    main()
