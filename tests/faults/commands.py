"""Short commands, and by which signs one sees what they are at: for `test_stops_everywhere`."""

import dataclasses
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from tests.devkit import write_devkit
from tests.faults.killed import TIMED, digest
from tests.review.runs import write_run
from tests.tiny import write_weights

ROOT = Path(__file__).parents[2]
OUTPUTS = (".npz", ".npy", ".safetensors", ".html")
SLOW_DISK = {"VTL_TEST_FSYNC_S": "0.2"}
PIECES = 40
"""In which the slow server sends the weights."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Arguments of `vtl`, and the phases after the imports: each one's name and its first sign.

    A sign that begins with ./ is a path in the command's directory, with wildcards; any other is a
    regex of what has been printed.
    """

    arguments: tuple[str, ...]
    phases: dict[str, str]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def phase(self, directory: Path, log: str) -> str:
        """The latest phase of which there is a sign."""
        now = "starting"
        for name, sign in self.phases.items():
            path = sign.removeprefix("./")
            if re.search(sign, log) if path == sign else any(directory.glob(path)):
                now = name
        return now


def what_is_left(directory: Path) -> dict[str, Any]:
    """The hash of every output, the metrics, and all names but those in checkpoints."""
    kept = ("cache/xla/", "log")
    paths = {p.relative_to(directory).as_posix(): p for p in directory.rglob("*")}
    paths = {name: path for name, path in paths.items() if not name.startswith(kept)}
    metrics = directory / "run" / "metrics.jsonl"
    lines = (
        [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    )
    for line in lines:
        line.pop("images_per_second", None)
    return {
        "hashes": {
            name: digest(path)
            for name, path in sorted(paths.items())
            if path.suffix in OUTPUTS and not TIMED.fullmatch(path.name)
        },
        "metrics": lines,
        # A stop saves a step that no undisturbed run saves.
        "names": sorted(n for n in paths if not re.match(r"run/checkpoints/\d+(/|$)", n)),
    }


def serve_slowly(content: bytes, seconds: float) -> tuple[ThreadingHTTPServer, str]:
    """A server that takes so long to send the content, or its rest, and its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("ETag", '"1"')
            self.end_headers()
            size = -(-len(content) // PIECES)
            try:
                for first in range(start, len(content), size):
                    self.wfile.write(content[first : first + size])
                    time.sleep(seconds / PIECES)
            except OSError:  # whoever asked was stopped
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}/tiny.safetensors"


def _write_features(path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.eye(2, dtype=np.float32), (100, 1))
    arrays = {f"X_{role}": rng.normal(size=(200, 50)) for role in ("train", "test")}
    np.savez(path, **arrays, Y_train=labels, Y_test=labels)


def make(directory: Path, url: str = "", sha256: str = "") -> dict[str, Command]:
    """Write the commands' data into `directory`; name -> command."""
    splits = {"train": 16, "val": 6, "test": 4}
    root = write_devkit(directory, splits, classes=("cat", "dog"), size=1000)
    weights = write_weights(directory / "w.safetensors")
    _write_features(directory / "features.npz")
    (directory / "reviewed").mkdir()
    reviewed = write_run(directory / "reviewed")
    corrections = directory / "corrections.csv"
    corrections.write_text("photo,class,label,was\n0003.png,cat,1,0\n")
    photos = (
        f"--config.data.root={root}",
        f"--config.weights={weights}",
        "--config.data.train_split=train",
        "--config.data.image_size=32",
        "--config.batch_size=4",
    )

    def task(config: str, *options: str) -> tuple[str, ...]:
        return (f"--config={ROOT}/configs/{config}", "--workdir=run", *options)

    def probe(config: str) -> Command:
        options = (f"--config.features={directory}/features.npz", "--config.train_split=train")
        fitting = {"fitting": "./run/config.json", "writing": "./run/scores_*.npz"}
        return Command(task(config, *options), fitting | {"over": "mAP on"})

    return {
        "finetune": Command(
            task(
                "finetune.py",
                *photos,
                "--config.data.val_split=val",
                "--config.eval_batch_size=4",
                "--config.num_epochs=2.0",
            ),
            {
                "reading": "weights: ",
                "decoding": "./cache/images/*",
                "beginning": "./run/.*",
                "fitting the head": "starts the head",
                "compiling": "./run/checkpoints/0",
                "training": r"epoch 1\.0",
                "evaluating": r"epoch 2\.0",
                "writing": "./run/scores_*.npz",
                "over": "mAP on",
            },
        ),
        "finetune held out": Command(
            task(
                "finetune.py",
                *photos,
                "--config.eval_batch_size=4",
                "--config.held_out=0.3",
            ),
            {
                "trying": "./run/held_out/config.json",
                "tried": "./run/held_out/results.json",
                "over": "mAP on",
            },
        ),
        "features": Command(
            task("deep_features.py", *photos),
            {
                "reading": "weights: ",
                "decoding": "./cache/images/*",
                "compiling": "deep features",
                "extracting": "./run/unfinished_train.json",
                "writing": "./run/*DF_*",
                "over": "photos in",
            },
            SLOW_DISK,
        ),
        "probe": probe("linear_probe.py"),
        "probe lbfgs": probe("linear_probe.py:lbfgs"),
        "relu_study": Command(
            task(
                "relu_study.py:digits",
                "--config.networks=('perceptron',)",
                "--config.activations=('sigmoid','relu')",
                "--config.seeds=(1,)",
                "--config.perceptron.num_epochs=1.0",
                "--config.perceptron.learning_rates=(0.3,)",
                "--config.thresholds=(0.5,)",
                "--config.main_threshold=0.5",
                "--config.num_resamples=10",
            ),
            {
                "training": "./run/config.json",
                "training the second": "./run/curves_*",
                "drawing": "./run/curves_*relu*",
                "over": "Best on held-out",
            },
        ),
        "learning_curve": Command(
            task(
                "learning_curve.py",
                *photos,
                "--config.eval_batch_size=4",
                "--config.fractions=(0.7,1.0)",
                "--config.draws=1",
                "--config.num_epochs=1.0",
                "--config.head_l2=0.01",
                "--config.held_out=0.0",
            ),
            {
                "beginning": "./run/.*",
                "probing": "./run/subsets.csv",
                "training": "./run/fine_tuned/0.7_0/config.json",
                "training on all": "./run/fine_tuned/1_0/config.json",
                "over": "Twice the labels",
            },
        ),
        "review": Command(
            ("review", str(reviewed), "-o", "page.html"),
            {"writing": "./.page*.tmp", "over": "MB"},
            SLOW_DISK,
        ),
        "review apply": Command(
            (
                *("review", "apply", str(corrections)),
                *(f"{directory}/reviewed/photos/labels.csv", "-o", "labels2.csv"),
            ),
            {"logging": "./.labels2*.tmp", "writing": "./labels2*.json", "over": "labels changed"},
            SLOW_DISK,
        ),
        "report": Command(
            ("report", f"{directory}/finished", "-o", "page.html"),
            {"writing": "./.page*.tmp", "over": "MB"},
            SLOW_DISK,
        ),
        "weights convert": Command(
            ("weights", "convert", str(weights), "-o", "out.safetensors"),
            {"writing": "./.out*.tmp", "over": "bytes"},
            SLOW_DISK,
        ),
        "weights verify": Command(
            ("weights", "verify", "demo"),
            {"asking": "asking", "over": "agree with PyTorch"},
        ),
        "weights fetch": Command(
            ("weights", "fetch", "tiny"),
            {
                "fetching": "./cache/*/*.part",
                "checking": "./cache/*/tiny.safetensors",
                "over": "sha256",
            },
            environment={"VTL_TEST_URL": url, "VTL_TEST_SHA256": sha256},
        ),
    }
