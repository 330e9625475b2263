"""What ``hftl.runtime.machine.keep_freed_memory`` is worth: training steps of a MobileNetV2 and of a
BERT with and without it.

    python tests/benchmarks/allocator.py

Each is run in a process of its own, in turn, three times; the medians are printed. Random weights: speed does not
depend on them.
"""

import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

REPETITIONS = 3
KINDS = ("images", "texts")


def images() -> Iterator[Callable[[], None]]:
    """Steps of 32 rows at 224 px in float32."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=10))
    pixels = torch.randn(32, 3, 224, 224)

    def step() -> None:
        model(pixel_values=pixels).logits.sum().backward()
        model.zero_grad()

    for _ in range(5):
        yield step


def texts() -> Iterator[Callable[[], None]]:
    """Steps of 16 rows, each of another length up to 256 tokens, in float32; the model has MiniLM's size."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from hftl.model import dropout

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    model = BertForSequenceClassification(config).train()
    dropout.put_in(model)
    lengths = random.Random(0)

    def step() -> None:
        ids = torch.randint(config.vocab_size, (16, 8 * lengths.randint(6, 32)))
        model(input_ids=ids).logits.sum().backward()
        model.zero_grad()

    for _ in range(21):
        yield step


def measure(kind: str, keep: bool) -> tuple[float, float]:
    """Seconds a step, the first left out; and the most memory held, in GB."""
    import torch

    from hftl.runtime.machine import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    taken = []
    for step in {"images": images, "texts": texts}[kind]():
        begun = time.perf_counter()
        step()
        taken.append(time.perf_counter() - begun)
    return statistics.mean(taken[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], sys.argv[2] == "keep")))
        return
    for kind in KINDS:
        found: dict[str, list[list[float]]] = {"return": [], "keep": []}
        for _ in range(REPETITIONS):
            for way, each in found.items():
                command = [sys.executable, __file__, kind, way]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                each.append(json.loads(done.stdout))
        for way, each in found.items():
            seconds, held = (statistics.median(column) for column in zip(*each, strict=True))
            print(f"{kind}, {way:>6} freed memory: {seconds:.2f} s a step, {held:.1f} GB held")


if __name__ == "__main__":
    main()
