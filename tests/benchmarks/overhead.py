"""What the loop costs over bare PyTorch: both train the same model on the same batches, in turn, in one process."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.plan import Job

BLOCK, WARM_UP = 20, 20
"""Steps that one of them takes before the other has its turn; first steps that do not count."""
SIZES = {"tiny": (16, 1, 1, 6), "small": (128, 2, 2, 62)}
"""Hidden size, layers, heads; words of each text."""


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Medians of a step in milliseconds, and what the loop and the display add to it in microseconds."""
    from hftl import Phase, Recipe, Trainer
    from hftl.display import Display
    from hftl.records import PhaseStarted, RunStarted, StepTaken
    from hftl.tasks import TextClassification

    size = SIZES[job.contender.split()[0]]
    model = folder / "model"
    write_model(model, *size[:3])
    trainer: Any = Trainer(
        Recipe(
            task=TextClassification(data=texts(job, size[3])),
            model=str(model),
            phases=(Phase("all", 1),),
            output_dir=str(folder / "run"),
            batch_size=job.batch,
            precision="fp32",
            seed=job.seed,
        )
    )
    records, bare = trainer.run(), iter(())
    taken: dict[str, list[float]] = {"hftl": [], "bare": [], "display": []}
    with Display() as display:
        while True:
            begun = time.perf_counter()
            record = next(records)
            seconds = time.perf_counter() - begun
            begun = time.perf_counter()
            display(record)
            shown = time.perf_counter() - begun
            if isinstance(record, RunStarted):
                plain = copy.deepcopy(trainer.ready.loaded.model)
            elif isinstance(record, PhaseStarted):
                bare = bare_steps(plain, trainer.ready, trainer.recipe)
            elif not isinstance(record, StepTaken):
                break
            else:
                taken["hftl"].append(seconds)
                taken["display"].append(shown)
                if len(taken["hftl"]) % BLOCK == 0:
                    taken["bare"] += [timed(bare) for _ in range(BLOCK)]
    counted = {name: times[min(WARM_UP, len(times) // 2) :] for name, times in taken.items()}
    ours, theirs = statistics.median(counted["hftl"]), statistics.median(counted["bare"])
    return {
        "seconds": sum(taken["hftl"]),
        "steps": len(counted["bare"]),
        "hftl_ms": 1e3 * ours,
        "bare_ms": 1e3 * theirs,
        "overhead_us": 1e6 * (ours - theirs),
        "overhead_percent": 100 * (ours / theirs - 1),
        "display_us": 1e6 * statistics.mean(counted["display"]),
    }


def timed(steps: Iterator[None]) -> float:
    """Seconds that the next step takes."""
    begun = time.perf_counter()
    next(steps)
    return time.perf_counter() - begun


def bare_steps(model: Any, ready: Any, recipe: Any) -> Iterator[None]:
    """The loop that everybody writes, on the batches that hftl has."""
    import torch
    from torch.nn.functional import cross_entropy

    from hftl.data.batches import epoch_steps

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    while True:  # hftl's own batches are those of the first round
        for _, (batch,) in epoch_steps(ready.examples("train"), recipe.batch_size, (recipe.seed, 0, 0)):
            cross_entropy(model(**batch.inputs).logits, batch.targets).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield


def write_model(folder: Path, hidden: int, layers: int, heads: int, feed_forward: int | None = None) -> None:
    """A BERT with random weights and a tokenizer of few words."""
    import torch
    from transformers import BertConfig, BertModel
    from zoo import bert_tokenizer

    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=feed_forward or 4 * hidden,
        max_position_embeddings=66,
        hidden_dropout_prob=0.0,  # hftl's own dropout is faster, and would hide what the loop costs
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def texts(job: Job, words: int) -> dict[str, Any]:
    """Random texts of one length, by split."""
    import numpy as np
    from datasets import ClassLabel, Dataset
    from zoo import WORDS

    rng = np.random.default_rng(job.seed)

    def split(rows: int) -> Any:
        drawn = rng.choice(WORDS.split(), (rows, words))
        made = Dataset.from_dict({"text": [" ".join(row) for row in drawn], "label": [row % 2 for row in range(rows)]})
        return made.cast_column("label", ClassLabel(names=["negative", "positive"]))

    return {"train": split(job.measured_rows.train), "validation": split(job.measured_rows.validation)}
