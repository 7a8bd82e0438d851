"""The network: a ResNet of basic blocks, as deep and as wide as it is told.

Source: He et al., "Deep Residual Learning for Image Recognition" (2016), with the shortcuts of its option B.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STAGES = 3
LARGE_IMAGE = 64
# The names of the last layer's weights, the only ones that depend on the classes, begin so.
HEAD = "head."


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; `[n, inputs, h, w]` → `[n, outputs, h/stride, w/stride]`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, images: Tensor) -> Tensor:
        """Residual plus shortcut, rectified."""
        return torch.relu(self.residual(images) + self.shortcut(images))


class ResNet(nn.Module):
    """Normalised images `[n, channels, h, w]` → logits `[n, classes]`.

    `width` is the number of channels of the first of three stages, each later one has twice as many and half the
    resolution; `depth` is the number of blocks in a stage. Images of 64 pixels and more are pooled once more at the
    stem, as in the paper.
    """

    def __init__(self, *, classes: int, channels: int, width: int, image_size: int, depth: int = 1) -> None:
        super().__init__()
        self.configuration: dict[str, int] = {
            "classes": classes,
            "channels": channels,
            "width": width,
            "image_size": image_size,
            "depth": depth,
        }
        stem: list[nn.Module] = [
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        if image_size >= LARGE_IMAGE:
            stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        blocks: list[nn.Module] = []
        inputs = width
        for stage in range(STAGES):
            outputs = width * 2**stage
            for block in range(depth):
                blocks.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
        self.stages = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes."""
        features = self.stages(self.stem(images))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class Classifier(nn.Module):
    """What is exported and served: normalised images → probabilities `[n, classes]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities, each row summing to one."""
        return torch.softmax(self.network(images), dim=1)


def network_from(saved: dict[str, Any]) -> ResNet:
    """The network of a saved state `{"configuration": …, "state": …}`, in evaluation mode."""
    network = ResNet(**saved["configuration"])
    network.load_state_dict(saved["state"])
    return network.eval()
