"""PyTorch's LoRA step of GPT-2 in its shape, random weights, for `npm run bench -- engine --only gpt2`.

transformers' GPT2LMHeadModel with scaled dot-product attention and PyTorch's own tanh-GELU (the same function as GPT-2's
`gelu_new`, in one kernel), PEFT's LoRA on `c_attn`, next-token loss, clipping to norm 1, AdamW. No dropout.
"""

from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from serve import arguments, serve
from transformers import GPT2Config, GPT2LMHeadModel

options = arguments(batch=4, tokens=256, layers=12, vocabulary=50257, rank=8)


def make(_: str) -> Callable[[], None]:
    config = GPT2Config(
        vocab_size=options.vocabulary,
        n_layer=options.layers,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        lora_dropout=0.0,
        target_modules=["c_attn"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    model = get_peft_model(GPT2LMHeadModel(config), lora)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    ids = torch.randint(0, options.vocabulary, (options.batch, options.tokens))

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    return step


serve(make)
