"""PyTorch's steps on batches of real sentences, for `npm run bench -- engine --only epoch`.

The argument names a folder with the encoder (`encoder/`), the start values of head and adapters (`start.safetensors`) and
the batches (`batches.json`: token ids and labels), the same that the other side has. A line `<batch>` is answered with
{"ms": ..., "loss": ...}: one step on that batch, padded to its longest sentence; building its tensors is part of the time.
"""

import json
import os
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from serve import arguments
from transformers import BertModel

options = arguments(folder="", kind="full", rank=8, lr=2e-5, clip=1.0)
batches = json.load(open(os.path.join(options.folder, "batches.json")))
start = load_file(os.path.join(options.folder, "start.safetensors"))

backbone = BertModel.from_pretrained(os.path.join(options.folder, "encoder"), add_pooling_layer=False)
if options.kind == "lora":
    config = LoraConfig(
        r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules=["query", "value"]
    )
    backbone = get_peft_model(backbone, config)
    for name, weight in backbone.named_parameters():
        if "lora_" in name:
            # base_model.model.encoder…query.lora_A.default.weight -> encoder…query.lora_A
            weight.data.copy_(start[name.removeprefix("base_model.model.").removesuffix(".default.weight")])
head = torch.nn.Linear(start["classifier.weight"].shape[1], start["classifier.weight"].shape[0])
head.weight.data.copy_(start["classifier.weight"])
head.bias.data.copy_(start["classifier.bias"])
backbone.eval()
weights = [weight for module in (backbone, head) for weight in module.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(weights, lr=options.lr)


def step(ids: list[list[int]], labels: list[int]) -> float:
    longest = max(map(len, ids))
    input_ids = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    optimizer.zero_grad()
    hidden = backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    pooled = (hidden * weight).sum(1) / weight.sum(1)
    loss = torch.nn.functional.cross_entropy(head(pooled), torch.tensor(labels))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, options.clip)
    optimizer.step()
    return loss.item()


for line in sys.stdin:
    batch = batches[int(line)]
    began = time.perf_counter()
    loss = step(batch["ids"], batch["labels"])
    print(json.dumps({"ms": (time.perf_counter() - began) * 1000, "loss": loss}), flush=True)
