"""What the PyTorch peers share: a loop that answers `<kind> <count>` lines on stdin with one line of JSON each."""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable

import torch


def arguments(**defaults: int | float | str) -> argparse.Namespace:
    """Command-line options with their defaults, and --threads, which is set at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    return options


def serve(make: Callable[[str], Callable[[], None]]) -> None:
    """Answers with {"ms": [...]}, the time of each of `count` steps of `make(kind)`, which is made once; `version 0`
    with the versions; `memory 0` with the largest resident memory so far; {"error": "..."} where a step cannot run."""
    steps: dict[str, Callable[[], None]] = {}
    for line in sys.stdin:
        kind, count = line.split()
        try:
            if kind == "version":
                answer: object = {"torch": torch.__version__, "threads": torch.get_num_threads()}
            elif kind == "memory":
                answer = {"peakBytes": peak_bytes()}
            else:
                if kind not in steps:
                    steps[kind] = make(kind)
                answer = {"ms": [timed(steps[kind]) for _ in range(int(count))]}
        except Exception as error:  # noqa: BLE001: whatever it is, the other side wants to know
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        print(json.dumps(answer), flush=True)


def peak_bytes() -> int:
    """Largest resident memory so far. Linux counts the starting process's into ru_maxrss; the own mark is in /proc."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return (time.perf_counter() - began) * 1000
