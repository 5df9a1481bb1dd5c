"""A network's steps as a PyTorch user writes them: channels_last, autocast, fused SGD, compile."""

import functools
import re

import torch

from experiments.speed import bench
from tests.references.torch_resnet import TorchResNet
from vtl.preprocessing import TORCHVISION


def network_of(name: str) -> torch.nn.Module:
    """timm's EfficientNet-Lite or ViT, or a ResNet-50 as torchvision has it."""
    if name == "resnet50":
        return TorchResNet(50, bench.NUM_CLASSES)
    from tests.references import timm_networks

    if name == bench.VIT:
        return timm_networks.vit(name, bench.NUM_CLASSES)
    return timm_networks.efficientnet_lite(int(name[-1]), bench.NUM_CLASSES)


class Scorer(torch.nn.Module):
    """uint8 images [B, H, W, 3] -> logits [B, C] float32, in autocast if `dtype` is bfloat16."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, dtype: str = "float32", network: str = "resnet50") -> None:
        super().__init__()
        self.network = network_of(network).to(memory_format=torch.channels_last)
        self.dtype = getattr(torch, dtype)
        for name, values in (("mean", TORCHVISION.mean), ("std", TORCHVISION.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise the counts and run the network."""
        # The permuted counts lie in memory as channels_last.
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(x).float()


def device() -> str:
    """Where the steps run: where ours do."""
    return "cuda" if bench.on_gpu() else "cpu"


def finish() -> None:
    """Wait for the device."""
    if bench.on_gpu():
        torch.cuda.synchronize()


def configure_gpu(tf32: bool) -> None:
    """Set whether a GPU's float32 products are TF32; cuDNN chooses its algorithms by trial."""
    if bench.on_gpu():
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True


def makers(setting: bench.Setting, *, compiled: bool = False) -> bench.Makers:
    """Every step, eager or by `torch.compile`."""
    configure_gpu(setting.tf32)
    torch.compiler.config.force_disable_caches = (
        True  # so that the first call compiles, as ours does
    )
    images = torch.tensor(setting.images, device=device())
    labels = torch.tensor(setting.labels, device=device()).float()

    def new_scorer() -> Scorer:
        torch.compiler.reset()  # the step before this one is done with
        return Scorer(setting.dtype, setting.network).to(device()).eval()

    def evaluation() -> bench.Step:
        # PyTorch advises constant weights for inference; users don't do that on a GPU.
        scorer, freezing = new_scorer(), not bench.on_gpu()
        score = torch.compile(scorer, options={"freezing": freezing}) if compiled else scorer

        def step() -> None:
            with torch.inference_mode():
                for _ in range(setting.in_flight):
                    torch.sigmoid(score(images))
            finish()

        return step

    def training(pattern: str, batch_norm: str) -> bench.Step:
        scorer = new_scorer().train(batch_norm == "batch")
        for name, parameter in scorer.network.named_parameters():
            parameter.requires_grad = re.fullmatch(pattern, name) is not None
        trainable = [p for p in scorer.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable, lr=1e-3, momentum=0.9, fused=True)
        score = torch.compile(scorer) if compiled else scorer

        def step() -> None:
            for _ in range(setting.in_flight):
                optimizer.zero_grad(set_to_none=True)
                logits = score(images)
                torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
                optimizer.step()
            finish()

        return step

    regimes = {name: functools.partial(training, *of) for name, of in bench.REGIMES.items()}
    return {bench.EVALUATION: evaluation, **regimes}
