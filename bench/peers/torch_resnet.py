"""PyTorch's training step of ResNet-18 in its shape for 32 x 32 pixels, for `npm run bench -- engine --only resnet`.

A 3 x 3 stem without pooling, four stages of two blocks, SGD with momentum. Batch normalisation by the statistics of the
batch and without running means, as on the other side.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from serve import arguments, serve
from torch import nn

options = arguments(batch=32)


def convolution(wide: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(wide, out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(out, track_running_stats=False)
    )


class Block(nn.Module):
    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(wide, out, 3, stride)
        self.second = convolution(out, out, 3, 1)
        self.shortcut = convolution(wide, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


def make(_: str) -> Callable[[], None]:
    widths = [64, 64, 128, 256, 512]
    stages = [
        nn.Sequential(Block(wide, out, 1 if wide == out else 2), Block(out, out, 1))
        for wide, out in zip(widths, widths[1:])
    ]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    model = nn.Sequential(convolution(3, 64, 3, 1), nn.ReLU(), *stages, *pool)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(options.batch, 3, 32, 32)
    labels = torch.arange(options.batch) % 10

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


serve(make)
