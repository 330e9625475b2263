"""What ``hftl.runtime.keep_freed_memory`` is worth: training steps of a MobileNetV2 with and without it.

    python tests/benchmarks/allocator.py

Both run in processes of their own, in turn, three times each; the medians are printed. Random weights: speed does not
depend on them.
"""

import statistics
import subprocess
import sys
import time

ROWS, STEPS, REPETITIONS = 32, 4, 3


def rows_a_second(keep: bool) -> float:
    """Training rows a second at 224 px in float32."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    from hftl.runtime import keep_freed_memory

    if keep:
        keep_freed_memory()
    torch.manual_seed(0)
    model = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=10))
    pixels = torch.randn(ROWS, 3, 224, 224)

    def step() -> None:
        model(pixel_values=pixels).logits.sum().backward()
        model.zero_grad()

    step()
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    return ROWS * STEPS / (time.perf_counter() - begun)


def main() -> None:
    if len(sys.argv) > 1:
        print(rows_a_second(sys.argv[1] == "keep"))
        return
    found: dict[str, list[float]] = {"return": [], "keep": []}
    for _ in range(REPETITIONS):
        for way, rates in found.items():
            done = subprocess.run([sys.executable, __file__, way], capture_output=True, text=True, check=True)
            rates.append(float(done.stdout))
    for way, rates in found.items():
        print(f"{way:>6} freed memory: {statistics.median(rates):5.1f} rows/s  {[round(rate, 1) for rate in rates]}")


if __name__ == "__main__":
    main()
