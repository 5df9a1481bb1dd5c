"""What the command line says to bad input: a few lines, no traceback, no run left in the way."""

import dataclasses
import json
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.devices import xla_flags
from tests.devkit import write_devkit
from tests.test_end_to_end import TINY
from tests.tiny import write_weights

REPOSITORY = Path(__file__).parents[1]
CONFIG = "--config=configs/finetune.py:scratch"
TIMEOUT_S = 120


@dataclasses.dataclass
class Outcome:
    status: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The lines of an error, the first of which begins with `vtl: `; no progress bars."""
        lines = [line for line in re.split(r"[\r\n]+", self.stderr) if line.strip()]
        lines = [line for line in lines if not line.startswith("decoding photos: ")]
        assert self.status == 1, self.stderr
        assert 1 <= len(lines) <= 3, self.stderr
        assert lines[0].startswith("vtl: "), self.stderr
        assert "Traceback" not in self.stderr
        return "\n".join(lines)


@pytest.fixture(scope="module")
def vtl(tmp_path_factory):
    """Run `python -m vtl.main ARGUMENTS`, from a server that has imported what is slow to."""
    directory = tmp_path_factory.mktemp("command_line")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["ml_collections.config_flags", __name__])

    def call(*arguments: object, **environment: object) -> Outcome:
        variables = {name: str(value) for name, value in environment.items()}
        process = server.Process(
            target=_main, args=(list(map(str, arguments)), variables, directory)
        )
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            pytest.fail(f"{arguments} takes more than {TIMEOUT_S} s")
        outputs = [(directory / name).read_text() for name in ("stdout", "stderr")]
        return Outcome(process.exitcode, *outputs)

    return call


def _main(arguments: list[str], environment: dict[str, str], directory: Path) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(directory / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), number)
    os.environ.update(environment)
    os.chdir(REPOSITORY)
    sys.argv = ["vtl.main", *arguments]
    runpy.run_module("vtl.main", run_name="__main__", alter_sys=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    splits = {"train": 12, "test": 10}
    return write_devkit(tmp_path_factory.mktemp("data"), splits, classes=("cat", "dog"), size=40)


@pytest.fixture
def devkit(source, tmp_path):
    """A copy to break."""
    return Path(shutil.copytree(source, tmp_path / "VOC2007"))


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def options(devkit, workdir):
    """The options of a run that is sound."""
    knobs = {"data.root": devkit} | TINY
    return [f"--workdir={workdir}", *(f"--config.{name}={value}" for name, value in knobs.items())]


# The command line itself.


def test_no_config(vtl):
    error = vtl().error
    assert "--config is missing" in error
    assert "--config=configs/finetune.py" in error


def test_missing_config_file(vtl, options, workdir):
    for chosen in (options, []):
        error = vtl("--config=configs/juggle.py", *chosen).error
        assert "configs/juggle.py" in error
        assert "no such file" in error.lower()
    assert not workdir.exists()


def test_unknown_variant(vtl, options, workdir):
    error = vtl("--config=configs/finetune.py:juggle", *options).error
    assert "'juggle'" in error
    assert "lab, head, partial, scratch" in error
    assert not workdir.exists()


def test_stray_argument(vtl, options, workdir):
    assert "unexpected argument seed=1" in vtl(CONFIG, *options, "seed=1").error
    assert not workdir.exists()


def test_unknown_flag(vtl, options, workdir):
    assert "no option --wrokdir; see `vtl help`" in vtl(CONFIG, *options, "--wrokdir=x").error
    error = vtl(CONFIG, *options, "--num_epochs=3").error
    assert "no option --num_epochs: did you mean --config.num_epochs?" in error
    assert not workdir.exists()


def test_what_cannot_be_fetched(vtl, tmp_path, workdir):
    nowhere = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    environment = nowhere | {"VTL_CACHE": str(tmp_path / "cache")}
    error = vtl(CONFIG, f"--workdir={workdir}", **environment).error
    assert "could not fetch VOCtrainval_06-Nov-2007.tar" in error
    assert f"put VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar into {tmp_path}" in error
    assert "`vtl finetune:demo` needs no download" in error
    assert not workdir.exists()


# An option, and what the error must name.
OPTIONS = {
    "a misspelt knob": (
        "optim.learning_rat=0.1",
        "--config has no option 'learning_rat': did you mean learning_rate?",
    ),
    "a misspelt group": (
        "optimm.learning_rate=0.1",
        "--config has no option 'optimm': did you mean optim?",
    ),
    "a knob that is nobody's": (
        "juggle.balls=3",
        "--config has no option 'juggle'",
    ),
    "a knob of text as a number": ("batch_size=many", "batch_size"),
    "a knob of the wrong type": ("optim.learning_rate=fast", "learning_rate"),
    "an unknown choice": ("augment=rotate", "none, flip, crop_flip"),
    "an unknown task": ("task=juggle", "finetune"),
    "an unknown precision": ("precision=juggle", "precision"),
    "an unknown depth": ("model.depth=19", "18, 34, 50"),
    "a head without weights": ("head=probe", "choose head=random or head=zeros"),
    "unknown weights": ("weights=torchvison_v2", "did you mean torchvision_v2"),
    "an unknown schedule": ("optim.schedule=juggle", "constant, cosine"),
    "a rule that matches nothing": (
        "optim.rules=(('layer9/.*', 1.0), ('.*', None))",
        "'layer9/.*' matches no parameter",
    ),
    "rules that leave something out": ("optim.rules=(('fc/.*', 1.0),)", "no rule matches"),
    "a rule that is no regex": ("optim.rules=(('fc(', 1.0), ('.*', None))", "'fc('"),
    "an empty batch": ("batch_size=0", "batch_size"),
    "no logging": ("log_every_steps=0", "log_every_steps"),
    "a negative seed": ("seed=-1", "seed"),
    "a negative duration": ("num_epochs=-1", "num_epochs"),
    "a negative size": ("data.image_size=-5", "image"),
    "an unknown split": ("data.train_split=trian", "'trian'"),
    "overlapping splits": ("data.test_split=train", "12 photos"),
    "no such root": ("data.root=/nowhere/VOC2007", "/nowhere/VOC2007"),
    "data that can't be fetched": ("data.name=coco", "--config.data.root="),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_bad_option(vtl, options, workdir, case):
    option, named = OPTIONS[case]
    if case == "data that can't be fetched":
        options = [*options, "--config.data.root="]
    assert named in vtl(CONFIG, *options, f"--config.{option}").error
    assert not workdir.exists()


def test_overlapping_splits_name_both_and_a_photo(vtl, options):
    error = vtl(CONFIG, *options, "--config.data.test_split=train").error
    assert "data.train_split=train and data.test_split=train" in error
    assert "000001" in error


def test_batch_that_devices_cannot_share(vtl, options, workdir):
    error = vtl(CONFIG, *options, "--config.batch_size=12", XLA_FLAGS=xla_flags(8)).error
    assert re.search(r"batch_size .* multiple of the 8 devices .* got 12", error)
    assert not workdir.exists()


# Data.


def test_a_photo_is_missing(vtl, options, devkit, workdir):
    (devkit / "JPEGImages" / "000005.jpg").unlink()
    error = vtl(CONFIG, *options).error
    assert "1 of 12 photos are missing" in error
    assert str(devkit / "JPEGImages" / "000005.jpg") in error
    assert not workdir.exists()


def test_a_photo_is_truncated(vtl, options, devkit, workdir):
    path = devkit / "JPEGImages" / "000015.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    error = vtl(CONFIG, *options).error
    assert "1 of 10 photos can't be decoded" in error
    assert "000015: " in error
    assert str(path) in error
    assert not workdir.exists()


def test_a_class_file_disagrees_with_its_split(vtl, options, devkit, workdir):
    path = devkit / "ImageSets" / "Main" / "dog_train.txt"
    path.write_text(path.read_text() + "000099  1\n")
    assert f"{path}: id 000099 is not in the split file" in vtl(CONFIG, *options).error
    assert not workdir.exists()


def test_voc2007_without_a_network_says_what_to_put_where(vtl, workdir, tmp_path):
    closed = "http://127.0.0.1:9"
    proxies = {name: closed for name in ("http_proxy", "https_proxy")} | {"no_proxy": ""}
    outcome = vtl(CONFIG, f"--workdir={workdir}", VTL_CACHE=tmp_path / "cache", **proxies)
    error = outcome.error
    assert error.startswith("vtl: could not fetch VOCtrainval_06-Nov-2007.tar")
    assert "put VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar into" in error
    assert str(tmp_path / "cache" / "voc2007") in error
    assert "--config.data.root=" in error
    assert not workdir.exists()


# Weights.


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def test_the_network_is_what_the_weights_are(vtl, options, weights, workdir):
    """With weights, model.depth and model.width have no say: these are of a narrow ResNet-18."""
    # Refused once the network is known.
    rule = "--config.optim.rules=(('none', 1.0), ('.*', 1.0))"
    options = [*options, f"--config.weights={weights}", rule]
    outcome = vtl(CONFIG, *options, "--config.model.depth=34", "--config.model.width=2.0")
    assert "'none' matches no parameter" in outcome.error
    assert not workdir.exists()


def test_kept_head_of_other_classes(vtl, options, weights, workdir):
    error = vtl(CONFIG, *options, f"--config.weights={weights}", "--config.head=keep").error
    assert "its head is for other classes than the data's: only the head has other 0" in error
    assert "only the data has " in error


def test_truncated_weights(vtl, options, weights, workdir, tmp_path):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(weights.read_bytes()[:-100])
    assert str(path) in vtl(CONFIG, *options, f"--config.weights={path}").error
    assert not workdir.exists()


def test_weights_that_are_something_else(vtl, options, workdir, tmp_path):
    path = tmp_path / "photo.safetensors"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, "JPEG")
    assert str(path) in vtl(CONFIG, *options, f"--config.weights={path}").error
    assert not workdir.exists()


# The run directory.


def test_a_directory_of_something_else(vtl, options, workdir):
    workdir.mkdir()
    (workdir / "thesis.tex").write_text("precious")
    assert f"{workdir} is not empty and holds no run" in vtl(CONFIG, *options).error
    assert [path.name for path in workdir.iterdir()] == ["thesis.tex"]


def test_a_directory_that_is_a_file(vtl, options, workdir):
    workdir.write_text("precious")
    assert str(workdir) in vtl(CONFIG, *options).error
    assert workdir.read_text() == "precious"


def test_a_run_of_another_config(vtl, options, weights, workdir):
    options = [*options, f"--config.weights={weights}", "--config.head=zeros"]
    options += ["--config.optim.rules=(('fc/.*', 1.0), ('.*', None))", "--config.num_epochs=0.5"]
    options += ["--config.optim.warmup_steps=0"]
    outcome = vtl(CONFIG, *options)
    assert outcome.status == 0, outcome.stderr
    assert "mAP on test: lab " in outcome.stdout
    error = vtl(CONFIG, *options, "--config.optim.learning_rate=0.5").error
    assert f"{workdir} holds a run of another config" in error
    assert "optim.learning_rate 0.1 -> 0.5" in error
    assert json.loads((workdir / "results.json").read_text())["status"] == "finished"
    assert "is finished" in vtl(CONFIG, *options).stdout


def test_a_link_to_itself(vtl, options, workdir):
    workdir.symlink_to(workdir)
    assert f"{workdir} is no directory: choose another --workdir" in vtl(CONFIG, *options).error


def test_whatever_the_file_system_refuses_is_a_message(vtl, options, workdir, weights):
    """What nobody thought of: here a name that is too long for the head of another run."""
    head = "head" * 100
    options = [*options, f"--config.weights={weights}", f"--config.head_from={head}"]
    error = vtl(CONFIG, *options).error
    assert f"cannot read or write {head[:100]}" in error
    assert (
        "File name too long\nPut that right, then run the same command again: it resumes." in error
    )


# A full disk.


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 640 kB: less than a checkpoint, more than a config."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", path]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a small disk")
    yield path
    subprocess.run(["umount", path], check=True)


def _fill(disk: Path) -> Path:
    path = disk / "filler"
    path.write_bytes(bytes(shutil.disk_usage(disk).free))
    return path


def test_no_space_for_the_decoded_photos(vtl, options, workdir, small_disk):
    cache = small_disk / "cache"
    cache.mkdir()
    _fill(small_disk)
    error = vtl(CONFIG, *options, VTL_CACHE=cache).error
    assert "VTL_CACHE" in error
    assert not workdir.exists()


@pytest.mark.full
def test_no_space_for_a_checkpoint(vtl, options, weights, small_disk):
    options = [*options, f"--config.weights={weights}", "--config.head=zeros"]
    options += ["--config.optim.rules=(('fc/.*', 1.0), ('.*', None))"]
    options += [f"--workdir={small_disk}/run", "--config.optim.warmup_steps=0"]
    error = vtl(CONFIG, *options).error
    assert "the disk is full" in error
    assert str(small_disk) in error
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    outcome = vtl(CONFIG, *options)
    assert outcome.status == 0, outcome.stderr


def test_no_space_at_all(vtl, options, small_disk):
    filler = _fill(small_disk)
    options = [*options, "--config.optim.warmup_steps=0"]
    error = vtl(CONFIG, *options, f"--workdir={small_disk}/run").error
    assert "the disk is full" in error
    assert str(small_disk) in error
    filler.unlink()
    error = vtl(
        CONFIG, *options, f"--workdir={small_disk}/run", "--config.data.root=/nowhere"
    ).error
    assert "/nowhere" in error


# The ReLU study.

STUDY = "--config=configs/relu_study.py"


@pytest.fixture
def mnist(tmp_path):
    """Four IDX files of a few digits."""
    rng, root = np.random.default_rng(0), tmp_path / "mnist"
    root.mkdir()
    for prefix, count in (("train", 60), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
            (root / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return root


def test_mnist_without_a_network(vtl, workdir, tmp_path):
    closed = "http://127.0.0.1:9"
    proxies = {name: closed for name in ("http_proxy", "https_proxy")} | {"no_proxy": ""}
    error = vtl(STUDY, f"--workdir={workdir}", VTL_CACHE=tmp_path / "cache", **proxies).error
    assert "could not fetch train-images-idx3-ubyte.gz" in error
    assert "`vtl relu_study:digits` needs no download" in error
    assert not workdir.exists()


def test_mnist_cut_short(vtl, workdir, mnist):
    path = mnist / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    error = vtl(STUDY, f"--workdir={workdir}", f"--config.data.root={mnist}").error
    assert f"{path} is truncated" in error
    assert "7,840 bytes" in error
    assert not workdir.exists()


def test_labels_in_the_place_of_images(vtl, workdir, mnist):
    shutil.copy(mnist / "train-labels-idx1-ubyte", mnist / "train-images-idx3-ubyte")
    error = vtl(STUDY, f"--workdir={workdir}", f"--config.data.root={mnist}").error
    assert "must be 0x00000803, got 0x00000801" in error
    assert not workdir.exists()


def test_images_and_labels_of_different_length(vtl, workdir, mnist):
    shutil.copy(mnist / "t10k-labels-idx1-ubyte", mnist / "train-labels-idx1-ubyte")
    error = vtl(STUDY, f"--workdir={workdir}", f"--config.data.root={mnist}").error
    assert "has 60 images" in error
    assert "10 labels" in error
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("activations=('sigmoid','rely')", "activations is 'rely': choose one of sigmoid, tanh"),
        ("perceptron.learning_rates=()", "perceptron.learning_rates must not be empty"),
        ("perceptron.learning_rate=(0.1,)", "learning_rates"),
    ],
)
def test_bad_option_of_the_study(vtl, workdir, mnist, option, named):
    arguments = [f"--workdir={workdir}", f"--config.data.root={mnist}", f"--config.{option}"]
    assert named in vtl(STUDY, *arguments).error
    assert not workdir.exists()


@pytest.mark.full
def test_the_study_on_idx_files(vtl, workdir, mnist):
    arguments = [STUDY, f"--workdir={workdir}", f"--config.data.root={mnist}"]
    arguments += ["--config.data.num_held_out=20", "--config.batch_size=8"]
    arguments += ["--config.networks=('perceptron',)", "--config.activations=('relu',)"]
    arguments += ["--config.perceptron.learning_rates=(0.1,)", "--config.seeds=(1,)"]
    outcome = vtl(*arguments, "--config.perceptron.num_epochs=1.0")
    assert outcome.status == 0, outcome.stderr
    assert "Best on held-out digits: ReLU, " in outcome.stdout
    assert outcome.stderr == ""
    assert "is finished" in vtl(*arguments, "--config.perceptron.num_epochs=1.0").stdout


# Values that no knob can have, and names that mean another.


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ("optim.momentum=nan", "optim.momentum must be a finite number"),
        ("num_epochs=inf", "num_epochs must be a finite number"),
        ("seed=4294967296", "seed must be at most 4294967295"),
        ("seed=-1", "seed must be at least 0"),
        ("weights=a\x1bb", "weights must not have unprintable characters"),
    ],
)
def test_values_that_no_knob_can_have(vtl, options, workdir, option, what):
    error = vtl(CONFIG, *options, f"--config.{option}").error
    assert what in error
    assert "\x1b" not in error
    assert not workdir.exists()


@pytest.mark.parametrize("name", ["lr", "learning_rat"])
def test_a_knob_by_another_name(vtl, options, name):
    error = vtl(CONFIG, *options, f"--config.optim.{name}=1").error
    assert f"no option '{name}'" in error
    assert "learning_rate" in error


def test_no_device_for_the_platform_asked_for(options, workdir):
    """In a process of its own, for JAX reads the variable when it is imported."""
    command = [sys.executable, "-m", "vtl.main", CONFIG, *options]
    environment = os.environ | {"JAX_PLATFORMS": "cuda"}
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "no device for cuda" in ended.stderr
    assert "JAX_PLATFORMS" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not workdir.exists()


def test_a_home_directory_by_its_name(vtl, options, tmp_path):
    home, missing = tmp_path / "home", "--config.weights=~/none.safetensors"
    error = vtl(CONFIG, *options, missing, HOME=home).error
    assert str(home / "none.safetensors") in error
