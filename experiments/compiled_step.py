"""What XLA plans for our training step: bytes of activations a photo, and all-reduces.

    python -m experiments.compiled_step

ResNet-50 with 1,000 classes at 224, float32, all of it training, compiled for the CPU and not run.
The bytes are what 8 photos more in a batch add to its temporary arrays, over 8; the all-reduces are
of a batch of 16 on 8 virtual devices. Writes experiments/compiled_step.csv.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from configs import finetune as finetune_config
from experiments import grid
from vtl.models.resnet import ResNet
from vtl.training import optim, steps
from vtl.training.state import make_mesh, new_state
from vtl.weights.preprocessing import TORCHVISION

NUM_CLASSES, SIDE, NUM_DEVICES = 1000, 224, 8


def main() -> None:
    """Compile for both uses of BatchNorm, and write the table."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    alone = Mesh(make_mesh().devices[:1], ("data",))
    rows = []
    for batch_norm in ("frozen", "batch"):
        plans = [compiled(batch_norm, size, alone).memory_analysis() for size in (8, 16)]
        few, many = (plan.temp_size_in_bytes for plan in plans)
        text = compiled(batch_norm, 16, make_mesh()).as_text()
        row = {
            "batch_norm": batch_norm,
            "bytes_a_photo": (many - few) // 8,
            "all_reduces": len(re.findall(r"= .*\ball-reduce(?:-start)?\(", text)),
            "jax": jax.__version__,
        }
        print("  ".join(f"{k} {v}" for k, v in row.items()))
        rows.append(row)
    grid.write_csv(Path(__file__).with_suffix(".csv"), rows)


def compiled(batch_norm: str, batch_size: int, mesh: Mesh) -> Any:
    """The training step for one batch size on `mesh`; only shapes are needed."""
    model, blank = ResNet(NUM_CLASSES), jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), blank, live_norms=()))
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
    batch = {"images": images, "labels": labels, "known": labels}
    return jax.jit(train_step, donate_argnums=0).lower(state, batch).compile()


if __name__ == "__main__":
    main()
