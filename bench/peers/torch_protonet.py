"""A training episode of prototypical networks on Conv4, for `npm run bench -- fewshot-speed`.

Kinds `easyfsl` (its PrototypicalNetworks around the backbone, as its episodic training notebook has it: support and queries
are embedded one after the other, scores are -distance) and `torch` (written out: all images of the episode at once, scores
are -distance², as in Snell et al. 2017). Adam in both. Batch normalisation by the statistics of the batch.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from conv4 import Conv4
from serve import arguments, serve

warnings.filterwarnings("ignore")
options = arguments(ways=5, shots=1, queries=15, channels=64)


def labels(per_class: int) -> torch.Tensor:
    return torch.arange(options.ways).repeat_interleave(per_class)


support, query = (torch.randn(options.ways * each, 1, 28, 28) for each in (options.shots, options.queries))
support_labels, query_labels = labels(options.shots), labels(options.queries)


def easyfsl() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    from easyfsl.methods import PrototypicalNetworks

    model = PrototypicalNetworks(Conv4(options.channels))

    def scores() -> torch.Tensor:
        model.process_support_set(support, support_labels)
        return model(query)

    return model, scores


def plain() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    model = Conv4(options.channels)

    def scores() -> torch.Tensor:
        z = model(torch.cat((support, query)))
        prototypes = z[: len(support)].view(options.ways, options.shots, -1).mean(1)
        q = z[len(support) :]
        return 2 * q @ prototypes.T - (q * q).sum(1, keepdim=True) - (prototypes * prototypes).sum(1)

    return model, scores


def make(kind: str) -> Callable[[], None]:
    model, scores = {"easyfsl": easyfsl, "torch": plain}[kind]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(scores(), query_labels).backward()
        optimizer.step()

    return step


serve(make)
