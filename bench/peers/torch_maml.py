"""PyTorch's second-order MAML step on Conv4, for `npm run bench -- engine --only maml`.

Kinds `autograd` (weights as a dictionary, `torch.autograd.grad(create_graph=True)` in the inner loop, as learn2learn and
higher do it; tasks one after the other, their gradients accumulated) and `func` (`torch.func.grad` in the inner loop;
several tasks at once through `torch.func.vmap`). Adam outside. Batch normalisation by the statistics of the batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from serve import arguments, serve

options = arguments(tasks=1, ways=5, shots=1, queries=15, steps=5, channels=64)
inner_lr = 0.01


def labels(per_class: int) -> torch.Tensor:
    return torch.arange(options.ways * per_class).remainder(options.ways).repeat(options.tasks, 1)


support = torch.randn(options.tasks, options.ways * options.shots, 1, 28, 28)
query = torch.randn(options.tasks, options.ways * options.queries, 1, 28, 28)
support_labels, query_labels = labels(options.shots), labels(options.queries)


def start() -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for block in range(4):
        wide = 1 if block == 0 else options.channels
        weights[f"conv{block}.weight"] = torch.randn(options.channels, wide, 3, 3) * (2 / (9 * wide)) ** 0.5
        weights[f"conv{block}.bias"] = torch.zeros(options.channels)
        weights[f"norm{block}.weight"] = torch.ones(options.channels)
        weights[f"norm{block}.bias"] = torch.zeros(options.channels)
    weights["head.weight"] = torch.randn(options.ways, options.channels) * (2 / options.channels) ** 0.5
    weights["head.bias"] = torch.zeros(options.ways)
    return {name: weight.requires_grad_() for name, weight in weights.items()}


def conv4(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for block in range(4):
        x = F.conv2d(x, weights[f"conv{block}.weight"], weights[f"conv{block}.bias"], padding=1)
        x = F.batch_norm(x, None, None, weights[f"norm{block}.weight"], weights[f"norm{block}.bias"], training=True)
        x = F.max_pool2d(F.relu(x), 2)
    return F.linear(x.flatten(1), weights["head.weight"], weights["head.bias"])


def loss(weights: dict[str, torch.Tensor], images: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(conv4(weights, images), wanted)


def autograd_task(weights, support, support_labels, query, query_labels) -> torch.Tensor:
    fast = weights
    for _ in range(options.steps):
        gradients = torch.autograd.grad(loss(fast, support, support_labels), list(fast.values()), create_graph=True)
        fast = {name: weight - inner_lr * g for (name, weight), g in zip(fast.items(), gradients)}
    return loss(fast, query, query_labels)


def func_task(weights, support, support_labels, query, query_labels) -> torch.Tensor:
    fast = weights
    for _ in range(options.steps):
        gradients = torch.func.grad(loss)(fast, support, support_labels)
        fast = {name: weight - inner_lr * gradients[name] for name, weight in fast.items()}
    return loss(fast, query, query_labels)


def make(kind: str) -> Callable[[], None]:
    weights = start()
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    given = (support, support_labels, query, query_labels)

    def autograd() -> None:
        for task in range(options.tasks):
            (autograd_task(weights, *(part[task] for part in given)) / options.tasks).backward()

    def func() -> None:
        if options.tasks == 1:
            func_task(weights, *(part[0] for part in given)).backward()
        else:
            losses = torch.func.vmap(func_task, in_dims=(None, 0, 0, 0, 0))(weights, *given)
            losses.mean().backward()

    run = {"autograd": autograd, "func": func}[kind]

    def step() -> None:
        optimizer.zero_grad()
        run()
        optimizer.step()

    return step


serve(make)
