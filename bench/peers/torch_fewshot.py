"""learn2learn and easyfsl on the episodes of `npm run bench -- omniglot`: one arm, one JSON document on stdout.

The file holds images, episodes (rows of the images, way by way) and the start weights of Conv4; the arm its settings. Same
network, weights, rates, episodes and order as Fewtune's side. learn2learn has MAML, FOMAML and Meta-SGD as classes; ANIL is
its MAML on the head, as in its own example; Reptile is the loop of Nichol et al. 2018 on its clones. easyfsl's methods are
trained by the loop of its own notebooks, one Adam step for a batch of tasks.
"""

import argparse
import json
import sys
import time
import warnings

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

warnings.filterwarnings("ignore")


FEW = 150  # test episodes of the figure that is not compared


class Norm(nn.Module):
    """Batch normalisation by the statistics of the batch, of `reference`, or (running) of training."""

    def __init__(self, channels: int, running: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        if running:
            self.register_buffer("mean", torch.zeros(channels))
            self.register_buffer("var", torch.ones(channels))
        self.running = running

    def forward(self, x, reference=None):
        if reference is not None:
            var, mean = torch.var_mean(reference, (0, 2, 3), unbiased=False)
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False)
        if not self.running:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True)
        return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, training=self.training)


class Conv4(nn.Module):
    def __init__(self, start: dict[str, torch.Tensor], *, head: bool, running: bool = False, maps: bool = False) -> None:
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for block in range(4):
            weight = start[f"conv{block}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, stride=2, padding=1)
            conv.weight.data.copy_(weight)
            conv.bias.data.zero_()
            self.convs.append(conv)
            self.norms.append(Norm(weight.shape[0], running))
        self.head = None
        self.maps = maps
        if head:
            self.head = head_of(start)

    def forward(self, x, reference=None):
        for conv, norm in zip(self.convs, self.norms):
            x = conv(x)
            if reference is not None:
                reference = conv(reference)
                x, reference = F.relu(norm(x, reference)), F.relu(norm(reference))
            else:
                x = F.relu(norm(x))
        if self.maps:
            return x
        x = x.flatten(1)
        return x if self.head is None else self.head(x)


def head_of(start: dict[str, torch.Tensor]) -> nn.Linear:
    weight = start["head.weight"]
    head = nn.Linear(weight.shape[1], weight.shape[0])
    head.weight.data.copy_(weight)
    head.bias.data.copy_(start["head.bias"])
    return head


parser = argparse.ArgumentParser()
parser.add_argument("--file", required=True)
parser.add_argument("--arm", type=json.loads, required=True)
parser.add_argument("--threads", type=int, default=1)
given = parser.parse_args()
torch.set_num_threads(given.threads)
torch.manual_seed(7)
arm, data = given.arm, load_file(given.file)
start = {name.removeprefix("start/"): value for name, value in data.items() if name.startswith("start/")}
ways = start["head.weight"].shape[0]
per_step = arm["tasksPerStep"]


def labels(rows: torch.Tensor) -> torch.Tensor:
    return torch.arange(ways).repeat_interleave(len(rows) // ways)


def task(part: str, index: int):
    support, query = data[f"{part}/support"][index], data[f"{part}/query"][index]
    images = data[f"{part}/images"]
    return images[support], labels(support), images[query], labels(query)


def steps():
    episodes = len(data["train/support"])
    for first in range(0, episodes, per_step):
        yield [task("train", index) for index in range(first, first + per_step)]


def accuracy(scores: torch.Tensor, wanted: torch.Tensor) -> float:
    return (scores.argmax(1) == wanted).float().mean().item()


def progress(step: int, losses: list[float]) -> None:
    if step % 100 == 0:
        print(f"{arm['peer']}: step {step}, loss {sum(losses[-100:]) / 100:.3f}", file=sys.stderr, flush=True)


def maml():
    variant, inner_lr, loss = arm["variant"], arm["innerLr"], nn.CrossEntropyLoss()
    if variant == "anil":
        body, head = Conv4(start, head=False), l2l.algorithms.MAML(head_of(start), lr=inner_lr)
        parameters = [*body.parameters(), *head.parameters()]
    else:
        model = Conv4(start, head=True)
        if variant == "meta-sgd":
            learner = l2l.algorithms.MetaSGD(model, lr=inner_lr)
        else:
            learner = l2l.algorithms.MAML(model, lr=inner_lr, first_order=variant != "maml")
        parameters = list(learner.parameters())

    def adapted(support, support_labels, count: int):
        if variant == "anil":
            clone, shown = head.clone(), body(support)
            for _ in range(count):
                clone.adapt(loss(clone(shown), support_labels))
            return lambda x, reference=None: clone(body(x, reference))
        clone = learner.clone()
        for _ in range(count):
            clone.adapt(loss(clone(support), support_labels))
        return lambda x, reference=None: clone.module(x, reference)

    def reptile_step(tasks) -> float:
        moved, total = [torch.zeros_like(p) for p in parameters], 0.0
        for support, support_labels, query, query_labels in tasks:
            everything, wanted = torch.cat((support, query)), torch.cat((support_labels, query_labels))
            clone = learner.clone()
            for _ in range(arm["innerSteps"]):
                clone.adapt(loss(clone(everything), wanted))
            with torch.no_grad():
                total += loss(clone(query), query_labels).item()
                for sum_, p, fast in zip(moved, parameters, clone.parameters()):
                    sum_ += (fast - p) / len(tasks)
        with torch.no_grad():
            for p, by in zip(parameters, moved):
                p += arm["metaLr"] * by
        return total / len(tasks)

    optimizer = torch.optim.Adam(parameters, lr=arm["metaLr"])

    def adam_step(tasks) -> float:
        optimizer.zero_grad()
        total = 0.0
        for support, support_labels, query, query_labels in tasks:
            model = adapted(support, support_labels, arm["innerSteps"])
            own = loss(model(query), query_labels) / len(tasks)
            own.backward()
            total += own.item()
        optimizer.step()
        return total

    losses: list[float] = []
    for tasks in steps():
        losses.append(reptile_step(tasks) if variant == "reptile" else adam_step(tasks))
        progress(len(losses), losses)

    def test():
        transductive, inductive = [], []
        for index in range(len(data["test/support"])):
            support, support_labels, query, query_labels = task("test", index)
            model = adapted(support, support_labels, arm["testSteps"])
            with torch.no_grad():
                transductive.append(accuracy(model(query), query_labels))
                if index < FEW:
                    inductive.append(accuracy(model(query, support), query_labels))
        return transductive, inductive

    return test


def metric():
    backbone = Conv4(start, head=False, running=True, maps=arm["head"] == "relation")
    if arm["head"] == "prototype":
        classifier = PrototypicalNetworks(backbone)
    elif arm["head"] == "matching":
        classifier = MatchingNetworks(backbone, feature_dimension=start["head.weight"].shape[1])
    else:
        classifier = RelationNetworks(backbone, feature_dimension=start["conv0.weight"].shape[0])
    optimizer = torch.optim.Adam(classifier.parameters(), lr=arm["lr"])

    def loss(scores, wanted):
        if arm["head"] == "relation":
            return F.mse_loss(scores, F.one_hot(wanted, ways).float())
        return F.nll_loss(scores, wanted) if arm["head"] == "matching" else F.cross_entropy(scores, wanted)

    losses: list[float] = []
    classifier.train()
    for tasks in steps():
        optimizer.zero_grad()
        total = 0.0
        for support, support_labels, query, query_labels in tasks:
            classifier.process_support_set(support, support_labels)
            own = loss(classifier(query), query_labels) / len(tasks)
            own.backward()
            total += own.item()
        optimizer.step()
        losses.append(total)
        progress(len(losses), losses)

    def scores(count: int) -> list[float]:
        found = []
        with torch.no_grad():
            for index in range(count):
                support, support_labels, query, query_labels = task("test", index)
                classifier.process_support_set(support, support_labels)
                found.append(accuracy(classifier(query), query_labels))
        return found

    def test():
        classifier.eval()
        inductive = scores(len(data["test/support"]))
        for module in backbone.modules():
            if isinstance(module, Norm):
                module.running = False  # statistics of the support for it, of the queries for them
        return scores(min(FEW, len(data["test/support"]))), inductive

    return test


if arm["kind"] == "maml":  # loading them is no part of the time
    import learn2learn as l2l
else:
    from easyfsl.methods import MatchingNetworks, PrototypicalNetworks, RelationNetworks
began = time.perf_counter()
test = maml() if arm["kind"] == "maml" else metric()
seconds = time.perf_counter() - began
transductive, inductive = test()
print(json.dumps({"transductive": transductive, "inductive": inductive, "seconds": seconds}))
