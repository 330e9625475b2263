"""What each process of ``test_stores.py`` does, whether it is one of one or of two; it writes down what it saw.

torchrun --nproc_per_node 2 tests/distributed/stores_on_each.py OUT OTHERS_STORES PHOTOS REVIEWS VIT GPT2
"""

import errno
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hftl import Phase, Recipe, Trainer
from hftl.features import store
from hftl.model.layers import digest
from hftl.recipe.recipe import Store
from hftl.records import FeaturesReady, Noted, RunEnded
from hftl.tasks import ImageClassification, TextClassification

PHASES = (Phase("head", 1, 1e-2),)
RANK = int(os.environ.get("RANK", "0"))


def fit(name: str, out: Path, stores: Path, task: Any, model: str, **settings: Any) -> dict[str, Any]:
    """Run it; what each pass computed and noted, its scores, and this process's own parameters at the end."""
    common: dict[str, Any] = {"precision": "fp32", "batch_size": 8, "eval_batch_size": 4, "phases": PHASES, **settings}
    recipe = Recipe(task=task, model=model, output_dir=str(out / name), store=Store(dir=str(stores)), **common)
    seen: dict[str, Any] = {"computed": [], "notes": []}
    trainer = Trainer(recipe)
    gc.freeze()  # every run collects garbage several times, and what earlier ones left is not worth it
    with patch("hftl.report.curves.draw"):
        for record in trainer.run():
            if isinstance(record, FeaturesReady):
                seen["computed"].append(record.computed)
            if isinstance(record, Noted):
                seen["notes"].append(record.note)
            if isinstance(record, RunEnded):
                seen["scores"] = record.scores
    return {**seen, "own": digest(trainer.model.state_dict())}


def runs(out: Path, stores: Path, photos: str, reviews: str, vit: str, gpt2: str) -> dict[str, Any]:
    """Rows of one shape and of many, fewer batches than processes, and two passes; by name what ``fit`` gives."""
    images, texts, neck = ImageClassification(photos), TextClassification(reviews), (Phase("neck", 1, 1e-2),)
    return {
        "images": fit("images", out, stores, images, vit),
        "texts": fit("texts", out, stores, texts, gpt2, phases=neck, accumulation=2, refit=False),
        "one batch": fit("one", out, stores, images, vit, eval_batch_size=64),
        "all rows": fit("all", out, stores, images, vit, eval_batch_size=8, phases=(Phase("head"),), refit=True),
    }


def full_on_the_last(out: Path, task: Any, model: str) -> dict[str, Any]:
    """The disk is full for the process with the highest number alone."""
    append = store.Shard.append

    def fails(self: store.Shard, arrays: Any) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) - 1 == RANK:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, arrays)

    store.Shard.append = fails  # type: ignore[method-assign]
    seen = fit("full", out, out / "full-stores", task, model)
    return {**seen, "left": [path.name for path in (out / "full-stores").iterdir()]}


def main() -> None:
    out, others, *data = sys.argv[1:]
    folder = Path(out)
    seen = {
        "filled": runs(folder / "filled", folder / "stores", *data),
        "found": runs(folder / "found", Path(others), *data),
        "full": full_on_the_last(folder, ImageClassification(data[0]), data[2]),
    }
    (folder / f"seen-{RANK}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
