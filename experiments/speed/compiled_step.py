"""What XLA plans for our training step: bytes of activations a photo, and all-reduces.

    python -m experiments.speed.compiled_step
    python -m experiments.speed.compiled_step --gpu       # for an H100, which need not be there

Compiles the training of a whole ResNet-50 with 1,000 classes at 224 pixels, for the CPU in float32
or for an H100 in bfloat16, and does not run it. The bytes are what 8 more photos in a batch add to
its temporary arrays, divided by 8. The all-reduces are those of a batch of 16 on 8 virtual devices,
which only a CPU has. `--gpu` needs the extra `cuda`; on any machine it tells within minutes that
XLA's compiler for GPUs takes the step. Writes experiments/speed/compiled_step.csv, or
compiled_step_h100.csv.
"""

import argparse
import collections
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from configs import finetune as finetune_config
from experiments import tables
from vtl.models.resnet import ResNet
from vtl.preprocessing import TORCHVISION
from vtl.training import optim, steps
from vtl.training.state import make_mesh, new_state

NUM_CLASSES, SIDE, NUM_DEVICES = 1000, 224, 8
GPU = Path(__file__).parent / "parts" / "h100.txtpb"


def main() -> None:
    """Compile for both uses of BatchNorm, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    mesh = gpu() if options.gpu else Mesh(make_mesh().devices[:1], ("data",))
    dtype = "bfloat16" if options.gpu else "float32"
    rows = []
    for batch_norm in ("frozen", "batch"):
        few, many = (compiled(batch_norm, size, mesh, dtype) for size in (8, 16))
        plans = [step.memory_analysis().temp_size_in_bytes for step in (few, many)]
        row = {
            "device": mesh.devices[0].device_kind,
            "dtype": dtype,
            "batch_norm": batch_norm,
            "bytes_a_photo": (plans[1] - plans[0]) // 8,
        }
        if options.gpu:
            called = re.findall(r'custom_call_target="__cudnn\$(\w+)"', many.as_text())
            row["cudnn"] = ", ".join(
                f"{n} {name}" for name, n in collections.Counter(called).items()
            )
        else:
            text = compiled(batch_norm, 16, make_mesh(), dtype).as_text()
            row["all_reduces"] = len(re.findall(r"= .*\ball-reduce(?:-start)?\(", text))
        row["jax"] = jax.__version__
        tables.show(row)
        rows.append(row)
    name = "compiled_step_h100.csv" if options.gpu else "compiled_step.csv"
    tables.write_csv(Path(__file__).with_name(name), rows)


def gpu() -> Mesh:
    """A mesh to compile for, of the GPU that the file `GPU` describes."""
    topology = topologies.get_topology_desc(
        "gpu", platform="cuda", topology="1x1x1", target_config=GPU.read_text()
    )
    return Mesh(np.array(topology.devices), ("data",))


def compiled(batch_norm: str, batch_size: int, mesh: Mesh, dtype: str) -> Any:
    """The training step for one batch size on `mesh`; only shapes are needed."""
    model, blank = ResNet(NUM_CLASSES, dtype=jnp.dtype(dtype)), jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), blank, norms_by_batch=()))
    multipliers = optim.resolve_rules(((".*", 1.0),), variables["params"])
    config = finetune_config.get_config().optim
    optimizer = optim.make_optimizer(config, lambda step: 1e-3, multipliers)
    train_step = steps.make_train_step(
        model,
        optimizer,
        multipliers,
        batch_norm=batch_norm,
        preprocessing=TORCHVISION,
        augmentation="none",
        seed=0,
        mesh=mesh,
    )
    labels = jax.ShapeDtypeStruct((batch_size, NUM_CLASSES), jnp.uint8)
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), jnp.uint8)
    state = jax.eval_shape(lambda variables: new_state(variables, optimizer), variables)
    batch = {"images": images, "labels": labels, "label_mask": labels}
    return jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()


if __name__ == "__main__":
    main()
