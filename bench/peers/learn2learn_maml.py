"""learn2learn's second-order MAML step on Conv4, for `npm run bench -- fewshot-speed`.

Kind `learn2learn`: its MAML wrapper, a clone a task, `adapt` for the inner steps, tasks one after the other with their
gradients added up, Adam outside, as its own examples have it. Batch normalisation by the statistics of the batch.
"""

import warnings
from collections.abc import Callable

warnings.filterwarnings("ignore")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from conv4 import Conv4  # noqa: E402
from serve import arguments, serve  # noqa: E402

options = arguments(tasks=1, ways=5, shots=1, queries=15, steps=5, channels=64)
inner_lr = 0.01


def labels(per_class: int) -> torch.Tensor:
    return torch.arange(options.ways).repeat_interleave(per_class)


support = torch.randn(options.tasks, options.ways * options.shots, 1, 28, 28)
query = torch.randn(options.tasks, options.ways * options.queries, 1, 28, 28)
support_labels, query_labels = labels(options.shots), labels(options.queries)


def make(kind: str) -> Callable[[], None]:
    import learn2learn as l2l

    if kind != "learn2learn":
        raise ValueError(f"no kind is called {kind}")
    maml = l2l.algorithms.MAML(Conv4(options.channels, options.ways), lr=inner_lr, first_order=False)
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        for task in range(options.tasks):
            learner = maml.clone()
            for _ in range(options.steps):
                learner.adapt(F.cross_entropy(learner(support[task]), support_labels))
            (F.cross_entropy(learner(query[task]), query_labels) / options.tasks).backward()
        optimizer.step()

    return step


serve(make)
