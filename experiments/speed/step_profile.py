"""Milliseconds of a step's stages, forward and backward: ours beside PyTorch's, in one run.

    python -m experiments.speed.step_profile
    python -m experiments.speed.step_profile --stage=layer1   # its convolutions, norms and pools

This needs the extra `parity`. It runs ResNet-50 in float32 on crops of real photos, in stages:
conv1 with its norm, ReLU and max-pool (stem), the four layers, and the pooled classifier (head).
Each stage is jitted by itself and takes what the stage before it gives. PyTorch's are eager and
channels_last. Backward is the time of output and gradients together, less that of the output alone.
The gradient is by parameters and input; in the stem, whose input is the photos, it is by parameters
alone. With BatchNorm `frozen`, running averages normalise, and scale and shift train. Both sides
keep freed memory (vtl/training/memory.py); otherwise the time in which Linux clears pages would
count as an operation's.

FLOPs are those of convolutions and the classifier: 2 B H W K K C_in C_out for an output [B, H, W,
C_out] of a K x K kernel, and as many again for the input's gradient and for the kernel's. The ratio
is PyTorch's time over ours: above 1 ours is faster. Repetitions are interleaved, times are medians,
and compilation is left out. Writes experiments/speed/step_profile.csv, or step_profile_STAGE.csv.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from experiments import tables
from experiments.speed import bench, stages
from experiments.speed.peers import torch_steps
from tests.references.torch_resnet import TorchResNet, normalised


def our_calls(module: nn.Module, x: np.ndarray, *args: Any) -> dict[str, bench.Step]:
    """Our calls: `output`, and the output with gradients by `parameters`, or by `both` them and x.

    `kernel` and `input` are a single gradient, for which a convolution does not need its output.
    """
    images = jnp.asarray(x)
    variables = jax.jit(lambda: module.init(jax.random.key(0), images, *args))()
    stats = {name: tree for name, tree in variables.items() if name != "params"}

    def apply(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        return module.apply({"params": params, **stats}, x, *args, mutable=["batch_stats"])

    def gradients(params: Any, x: jax.Array, cotangent: jax.Array) -> tuple[Any, ...]:
        output, pullback, moved = jax.vjp(apply, params, x, has_aux=True)
        return (*pullback(cotangent), output, moved)

    def by_parameters(*operands: Any) -> tuple[Any, ...]:
        gradient, _, output, moved = gradients(*operands)
        return gradient, output, moved

    def call(function: Callable[..., Any], *operands: Any) -> bench.Step:
        jitted = jax.jit(function)

        def step() -> None:
            jax.block_until_ready(jitted(*operands))

        return step

    params = variables.get("params", {})
    cotangent = jnp.ones(jax.eval_shape(apply, params, images)[0].shape)
    operands = (params, images, cotangent)
    return {
        "output": call(apply, params, images),
        "both": call(gradients, *operands),
        "parameters": call(by_parameters, *operands),
        "kernel": call(lambda *xs: gradients(*xs)[0], *operands),
        "input": call(lambda *xs: gradients(*xs)[1], *operands),
    }


def torch_calls(module: torch.nn.Module, x: torch.Tensor, training: bool) -> dict[str, bench.Step]:
    """PyTorch's calls of the same names."""
    module.train(training)
    with torch.no_grad():
        cotangent = torch.ones_like(module(x))
    parameters, variable = list(module.parameters()), x.detach().requires_grad_()

    def output() -> None:
        with torch.no_grad():
            module(x)
        torch_steps.finish()

    def gradients(x: torch.Tensor, by: Sequence[torch.Tensor]) -> None:
        torch.autograd.grad(module(x), by, cotangent)
        torch_steps.finish()

    def convolution(by_input: bool) -> None:
        assert isinstance(module, torch.nn.Conv2d)
        strides, padding = list(module.stride), list(module.padding)
        wanted = [by_input, not by_input, False]
        torch.ops.aten.convolution_backward(
            cotangent, x, module.weight, None, strides, padding, [1, 1], False, [0, 0], 1, wanted
        )
        torch_steps.finish()

    return {
        "output": output,
        "both": lambda: gradients(variable, [*parameters, variable]),
        "parameters": lambda: gradients(x, parameters),
        "kernel": lambda: convolution(by_input=False),
        "input": lambda: convolution(by_input=True),
    }


def compare(
    ours: dict[str, bench.Step],
    theirs: dict[str, bench.Step],
    names: Collection[str],
    repetitions: int,
) -> dict[str, tuple[float, float]]:
    """Name of a call -> median seconds of ours and of PyTorch's."""
    peers = {"vtl": ours, "pytorch": theirs}
    seconds: dict[tuple[str, str], list[float]] = {(n, p): [] for n in names for p in peers}
    for _ in range(1 + repetitions):
        for (name, peer), taken in seconds.items():
            peers[peer][name]()  # the other's threads spin for milliseconds before they rest
            taken.append(bench.seconds_of(peers[peer][name]))
    middle = {key: float(np.median(taken[1:])) for key, taken in seconds.items()}
    return {name: (middle[name, "vtl"], middle[name, "pytorch"]) for name in names}


def times(seconds: tuple[float, float], flops: float) -> tables.Row:
    """The columns of a pair of times; a rate is blank without FLOPs or with too short a time."""
    rates = [f"{flops / s / 1e9:.1f}" if flops and s > 0 else "" for s in seconds]
    ours, theirs = seconds
    return {
        "vtl_ms": round(1e3 * ours, 2),
        "pytorch_ms": round(1e3 * theirs, 2),
        "ratio": f"{theirs / ours:.2f}" if min(seconds) > 0 else "",
        "vtl_gflops": rates[0],
        "pytorch_gflops": rates[1],
    }


def difference(
    minuend: tuple[float, float], subtrahend: tuple[float, float]
) -> tuple[float, float]:
    """Ours less ours, and PyTorch's less PyTorch's."""
    return minuend[0] - subtrahend[0], minuend[1] - subtrahend[1]


def profile_stages(
    network: TorchResNet, images: torch.Tensor, repetitions: int
) -> list[tables.Row]:
    """Two rows, forward and backward, for each stage and use of BatchNorm."""
    rows = []
    x = images
    for name, theirs in stages.torch_stages(network).items():
        ours, array = stages.OUR_STAGES[name], stages.nhwc(x)
        flops, by = stages.forward_flops(theirs, x), "parameters" if name == "stem" else "both"
        for batch_norm in ("frozen", "batch"):
            if name == "head" and batch_norm == "batch":
                continue
            norms = stages.norms_by_batch(ours, array, batch_norm)
            peers = our_calls(ours, array, norms), torch_calls(theirs, x, batch_norm == "batch")
            pair = compare(*peers, ("output", by), repetitions)
            backward = difference(pair[by], pair["output"])
            for direction, seconds, count in (
                ("forward", pair["output"], flops),
                ("backward", backward, flops if name == "stem" else 2 * flops),
            ):
                row = {"stage": name, "direction": direction, "batch_norm": batch_norm}
                rows.append(row | times(seconds, count))
                tables.show(rows[-1])
        with torch.no_grad():
            x = theirs.eval()(x)
    return rows


def profile_operations(
    network: TorchResNet, images: torch.Tensor, stage: str, repetitions: int
) -> list[tables.Row]:
    """The rows of one stage's operations; each gradient of a convolution is timed by itself."""
    rows = []
    x = images
    parts = stages.torch_stages(network)
    with torch.no_grad():
        for before in stages.STAGES[: stages.STAGES.index(stage)]:
            x = parts[before](x)
    for name, operation in stages.operations(parts[stage], x).items():
        is_conv = isinstance(operation.theirs, torch.nn.Conv2d)
        flops = stages.forward_flops(operation.theirs, operation.x)
        peers = (
            our_calls(operation.ours, stages.nhwc(operation.x)),
            torch_calls(operation.theirs, operation.x, training=True),
        )
        names = ("output", "input", "kernel") if is_conv else ("output", "both")
        pair = compare(*peers, names, repetitions)
        directions = {"forward": pair["output"]}
        if is_conv:
            directions |= {"input gradient": pair["input"], "kernel gradient": pair["kernel"]}
        else:
            directions["backward"] = difference(pair["both"], pair["output"])
        for direction, seconds in directions.items():
            row = {
                "stage": stage,
                "operation": name,
                "count": operation.count,
                "direction": direction,
            }
            rows.append(row | times(seconds, flops))
            tables.show(rows[-1])
    return rows


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = bench.option_parser(__doc__)
    parser.add_argument(
        "--stage", default="", choices=stages.STAGES[:-1], help="all of them by default"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    bench.check_options(parser, options)
    suffix = f"_{options.stage}" if options.stage else ""
    default = Path(__file__).with_name(f"step_profile{suffix}.csv")
    options.out = options.out or default
    return options


def main() -> None:
    """Measure and write the table."""
    options = read_options(sys.argv[1:])
    bench.as_in_training()
    setting = bench.Setting(options.batch_size, options.image_size, tf32=bench.on_gpu())
    torch_steps.configure_gpu(setting.tf32)
    network = TorchResNet(stages.DEPTH, bench.NUM_CLASSES).eval().to(torch_steps.device())
    network.to(memory_format=torch.channels_last)
    images = normalised(setting.images).to(torch_steps.device())
    images = images.contiguous(memory_format=torch.channels_last)
    if options.stage:
        rows = profile_operations(network, images, options.stage, options.repetitions)
    else:
        rows = profile_stages(network, images, options.repetitions)
    tables.write_csv(options.out, [row | setting.columns() | bench.machine() for row in rows])


if __name__ == "__main__":
    main()
