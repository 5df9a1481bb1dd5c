"""Every figure of docs/performance.md that needs a GPU, one command after the other.

    python -m experiments.speed.on_gpu --root=DEVKIT --weights=FILE

This needs the extra `bench`, JAX and PyTorch that see the GPU, a devkit in VOC's layout and
ResNet-50 weights. `--dry-run` prints the commands and runs none. A step that fails is named at the
end, and the others run all the same; the exit status is then 1. Each writes its own CSV.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from experiments.speed import bench
from vtl import console

HERE = Path(__file__).parent.relative_to(Path(__file__).parents[2])
IN_FLIGHT = ("--dtype=bfloat16", "--in-flight=10", "--repetitions=9")
"""As users train on a GPU: in bfloat16, without waiting for a step before the next."""


def commands(root: str, weights: str) -> list[list[str]]:
    """The words after `python -m`, a list for each step."""
    photos = [f"--root={root}", f"--weights={weights}"]
    of_torch = ["--peers=pytorch,pytorch_compile", "--steps=evaluation|everything", *IN_FLIGHT]
    return [
        ["experiments.speed.finetune_speed", *photos],
        ["experiments.speed.extraction", *photos, f"--out={HERE / 'extraction_gpu.csv'}"],
        ["experiments.speed.probe_speed", f"--out={HERE / 'probe_speed_gpu.csv'}"],
        [
            "experiments.speed.throughput",
            *of_torch,
            "--batch-size=128",
            f"--out={HERE / 'throughput_h100.csv'}",
        ],
        *(
            [
                "experiments.speed.throughput",
                f"--network={network}",
                *of_torch,
                "--batch-size=128",
                f"--out={HERE / f'throughput_{network}_gpu.csv'}",
            ]
            for network in ("efficientnet_lite0", bench.VIT)
        ),
    ]


def main() -> int:
    """Run all; 0 if none failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    failed = []
    for words in commands(options.root, options.weights):
        shown = shlex.join(["python", "-m", *words])
        console.say(shown)
        if not options.dry_run and subprocess.run([sys.executable, "-m", *words]).returncode:
            failed.append(shown)
    for shown in failed:
        console.say(f"failed: {shown}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
