"""What each process of ``test_processes.py`` does, whether it is one of one or of two; it writes down what it saw.

torchrun --nproc_per_node 2 tests/distributed/runs_on_each.py OUT PHOTOS REVIEWS SQUAD CALLS VIT RESNET BERT WAV2VEC2 \
    FAMILY=MODEL …
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from zoo import MELS

from hftl import HftlError, Phase, Predictor, Recipe, Trainer
from hftl.model.layers import digest
from hftl.records import EvaluationProgress, PhaseEnded, RunStarted, StepTaken
from hftl.runtime.runtime import Runtime
from hftl.tasks import AudioClassification, ImageClassification, QuestionAnswering, TextClassification
from hftl.tasks.audio_classification import Mel

HEAD = Phase("head", 2, 1e-2)


def fit(recipe: Recipe[Any]) -> dict[str, Any]:
    """Run it; what a reader of its records sees, and a digest of this process's own parameters after each phase."""
    trainer = Trainer(recipe)
    seen: dict[str, Any] = {"own": [], "told": [], "scores": [], "losses": [], "norms": [], "rows": [], "done": []}
    for record in trainer.run():
        if isinstance(record, RunStarted):
            seen["processes"] = record.processes
        if isinstance(record, PhaseEnded):
            seen["own"].append(digest(trainer.model.state_dict()))
            seen["told"].append(record.digest)
            seen["scores"].append(record.scores)
        if isinstance(record, StepTaken):
            seen["rows"].append(record.rows)
            seen["losses"].append(record.loss)
            seen["norms"].append(record.grad_norm)
        if isinstance(record, EvaluationProgress):
            seen["done"].append(record.done)
    seen["again"] = trainer.evaluate("validation")
    statistics = [buffer for name, buffer in trainer.model.named_buffers() if name.endswith("running_mean")]
    seen["statistics"] = [buffer.tolist() for buffer in statistics]
    return seen


def main() -> None:
    out, photos, reviews, squad, calls, vit, resnet, bert, wav2vec2 = map(Path, sys.argv[1:10])
    rank = int(os.environ.get("RANK", "0"))
    common: dict[str, Any] = {"precision": "fp32", "head_dropout": 0.0, "log_every": 1, "eval_batch_size": 2}
    images = ImageClassification(str(photos), max_rows=23)  # steps of 11, 11 and 1 rows
    seen: dict[str, Any] = {
        "phases": fit(
            Recipe(
                task=images,
                model=str(vit),
                phases=(HEAD, Phase(0.5, 1, 1e-3), Phase("all", 1, 1e-2, train="lora"), Phase("all", 1, 1e-3)),
                batch_size=11,
                accumulation=2,
                ema=0.9,
                output_dir=str(out / "phases"),
                **common,
            )
        ),
        "statistics": fit(
            Recipe(
                task=images,
                model=str(resnet),
                phases=(Phase("all", 2, 1e-3, batch_norm="update"),),
                batch_size=8,
                output_dir=str(out / "statistics"),
                **common,
            )
        ),
        "texts": fit(
            Recipe(
                task=TextClassification(str(reviews)),
                model=str(bert),
                phases=(HEAD, Phase("all", 1, 1e-3)),
                batch_size=8,
                refit=False,
                output_dir=str(out / "texts"),
                **{**common, "head_dropout": 0.1},
            )
        ),
    }
    seen["solved"] = fit(
        Recipe(
            task=images,
            model=str(vit),
            phases=(Phase("head"),),
            refit=True,
            output_dir=str(out / "solved"),
            **common,
        )
    )
    seen["all rows"] = fit(
        Recipe(
            task=images,  # with those to validate 32, of which each process has 4 in every step
            model=str(resnet),
            phases=(Phase("all", 1, 0.0, batch_norm="update"),),
            batch_size=8,
            refit=True,
            output_dir=str(out / "all rows"),
            **common,
        )
    )
    seen["questions"] = fit(
        Recipe(
            task=QuestionAnswering(str(squad), max_length=32, doc_stride=8, max_answer_length=5),
            model=str(bert),
            phases=(HEAD, Phase("all", 1, 1e-3)),
            batch_size=8,
            output_dir=str(out / "questions"),
            **common,
        )
    )
    seen["sounds"] = fit(
        Recipe(
            task=AudioClassification(str(calls), seconds=0.3, gain=6.0, mixup=0.2),  # of LayerDrop, see _waveforms
            model=str(wav2vec2),
            phases=(HEAD, Phase("all", 1, 1e-3)),
            batch_size=8,
            output_dir=str(out / "sounds"),
            **common,
        )
    )
    for family, _, model in (each.partition("=") for each in sys.argv[10:]):
        mel = Mel(**MELS[family][1]) if family in MELS else Mel()
        seen[family] = fit(
            Recipe(
                task=AudioClassification(str(calls), mel=mel),
                model=model,
                phases=(HEAD, Phase("all", 1, 1e-3)),
                batch_size=8,
                output_dir=str(out / family),
                **common,
            )
        )
    seen["heard"] = [answer["score"] for answer in Predictor(out / "sounds")(str(calls / "validation"))]
    seen["asked"] = Predictor(out / "questions")(str(squad / "validation.jsonl"))
    seen["evaluated"] = Predictor(out / "texts").evaluate("validation")
    seen["answers"] = [answer["score"] for answer in Predictor(out / "texts")(["good film", "awful plot", "the scene"])]

    runtime = Runtime("fp32")

    def fails() -> None:
        raise HftlError(f"said by process {rank}")

    try:
        runtime.once(fails)
    except HftlError as error:
        seen["error"] = str(error)
    seen["gathered"] = runtime.gather({"rank": rank})
    tensor = torch.full((2,), float(rank))
    runtime.average([tensor])
    seen["mean"] = tensor.tolist()
    (out / f"seen-{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
