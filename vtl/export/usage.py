"""A few lines of Python that prepare a photo and run an exported file."""

from pathlib import Path

from vtl.preprocessing import Preprocessing
from vtl.weights.sources import Weights

PHOTO = "PHOTO.jpg"
"""What the lines call the user's photo."""


def pixels(preprocessing: Preprocessing, *, resizes: bool = False) -> list[str]:
    """Lines that make `photo`, an RGB picture as the network sees it."""
    lines = [
        "from PIL import Image, ImageOps",
        f'photo = ImageOps.exif_transpose(Image.open("{PHOTO}")).convert("RGB")',
    ]
    if resizes:
        return lines
    crop, side = preprocessing.crop_size, preprocessing.stored_size(crops=False)
    how = f"Image.Resampling.{preprocessing.interpolation.upper()}"
    if preprocessing.resize == "resize_crop":
        start = round((side - crop) / 2)
        more = f" + {start}" if start else ""
        return [
            *lines,
            f"w, h = ({side} * length // min(photo.size) for length in photo.size)",
            f"x, y = (round((length - {side}) / 2){more} for length in (w, h))",
            f"photo = photo.resize((w, h), {how}).crop((x, y, x + {crop}, y + {crop}))",
        ]
    start = round((side - crop) / 2)
    cut = f".crop(({start}, {start}, {start + crop}, {start + crop}))" if side != crop else ""
    return [*lines, f"photo = photo.resize(({side}, {side}), {how}){cut}"]


def onnx(path: Path, preprocessing: Preprocessing, *, resizes: bool = False) -> str:
    """In ONNX Runtime."""
    return _text(
        "import numpy as np, onnxruntime",
        *pixels(preprocessing, resizes=resizes),
        f"session = onnxruntime.InferenceSession({str(path)!r})",
        'probabilities, logits = session.run(None, {"images": np.asarray(photo)[None]})',
    )


def openvino(path: Path, preprocessing: Preprocessing, *, resizes: bool = False) -> str:
    """In OpenVINO, in float32: it would choose a processor's bfloat16 itself."""
    return _text(
        "import numpy as np, openvino",
        *pixels(preprocessing, resizes=resizes),
        f'network = openvino.compile_model({str(path)!r}, "CPU", '
        '{"INFERENCE_PRECISION_HINT": "f32"})',
        "probabilities, logits = network(np.asarray(photo)[None]).values()",
    )


def stablehlo(path: Path, preprocessing: Preprocessing) -> str:
    """In JAX, without vtl and Flax."""
    return _text(
        "import jax.export, numpy as np",
        *pixels(preprocessing),
        f"with open({str(path)!r}, 'rb') as file:",
        "    network = jax.export.deserialize(bytearray(file.read()))",
        "probabilities, logits = network.call(np.asarray(photo)[None])",
    )


def torch(
    path: Path,
    weights: Weights,
    model: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    head: str,
) -> str:
    """In torchvision: `model` makes the network, `head` is the text of head(maps, fc), or ""."""
    if path.suffix == ".pth":
        load = [f"state = torch.load({str(path)!r}, weights_only=True)"]
    else:
        load = ["from safetensors.torch import load_file", f"state = load_file({str(path)!r})"]
    logits = "logits = model(x)"
    if head:
        logits = "logits = head(torch.nn.Sequential(*list(model.children())[:-2])(x), model.fc)"
    activation = "torch.sigmoid(logits)" if weights.multi_label else "torch.softmax(logits, 1)"
    return _text(
        "import numpy as np, torch, torchvision",
        *([head.rstrip()] if head else []),
        *pixels(weights.preprocessing),
        *load,
        f"model = {model}.eval()",
        "model.load_state_dict(state)",
        "x = torch.tensor(np.asarray(photo)).permute(2, 0, 1)[None] / 255",
        f"mean, std = torch.tensor({rounded(mean)}), torch.tensor({rounded(std)})",
        "x = (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)",
        f"with torch.no_grad():\n    {logits}",
        f"probabilities = {activation}",
    )


def rounded(numbers: tuple[float, ...]) -> list[float]:
    """Numbers to eight digits, which float32 doesn't tell apart from more."""
    return [float(f"{number:.8g}") for number in numbers]


def _text(*lines: str) -> str:
    return "\n".join(lines) + "\n"
