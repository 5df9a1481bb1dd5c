"""The table and the pictures of a run of the ReLU study, to keep beside this script.

    python -m vtl.main --config=configs/relu_study.py --workdir=runs/relu
    python -m experiments.relu_study --run=runs/relu

Writes relu_study.csv and relu_study_FIGURE.png. The study on MNIST takes about 50 minutes on 2 CPU
cores; this takes none.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from experiments import grid, tables

FIGURES = ("learning_curves", "epochs_to_convergence", "learning_rates", "gradient_norms")


def main() -> None:
    """Write the table, copy the pictures, and print the conclusions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/relu"))
    run = parser.parse_args().run
    results = grid.outcome(run)
    if results.get("task") != "relu_study":
        parser.error(f"{run} holds no finished run of configs/relu_study.py")
    here = Path(__file__)
    rows = [
        row(network, activation, measured, results)
        for network, outcome in results["networks"].items()
        for activation, measured in outcome["activations"].items()
    ]
    tables.write_csv(here.with_suffix(".csv"), rows)
    for figure in FIGURES:
        shutil.copy(run / f"{figure}.png", here.with_name(f"relu_study_{figure}.png"))
    for network, outcome in results["networks"].items():
        print(f"{network}: {' '.join(outcome['conclusion'])}")


def row(
    network: str, activation: str, measured: dict[str, Any], results: dict[str, Any]
) -> dict[str, Any]:
    """One line: epochs are medians over seeds with 95 % intervals; accuracies are medians."""
    start = {"network": network, "activation": activation}
    start["learning_rate"] = measured["learning_rate"]
    if measured["status"] == "diverged":
        return start | {"commit": results["commit"]}
    reached = {
        f"epochs_to_{100 * float(threshold):g}_percent": epochs["text"]
        for threshold, epochs in measured["epochs_to_accuracy"].items()
    }
    return {
        **start,
        **reached,
        "epochs_to_lowest_loss": measured["epochs_to_lowest_loss"]["text"],
        "held_out_accuracy": f"{100 * measured['accuracy']['median']:.2f}",
        "test_accuracy": f"{100 * measured['test_accuracy']['median']:.2f}",
        "seeds": len(measured["seeds"]),
        "commit": results["commit"],
    }


if __name__ == "__main__":
    main()
