"""Conv4 as a module: four times convolution 3 x 3, batch normalisation, ReLU, max-pooling, on images of 28 x 28."""

from torch import nn


class Conv4(nn.Sequential):
    def __init__(self, channels: int, ways: int | None = None) -> None:
        layers: list[nn.Module] = []
        for block in range(4):
            layers += [
                nn.Conv2d(1 if block == 0 else channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        layers.append(nn.Flatten())
        if ways is not None:
            layers.append(nn.Linear(channels, ways))
        super().__init__(*layers)
