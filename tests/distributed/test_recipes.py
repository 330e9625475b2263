"""The recipe scripts under ``torchrun``, on real models and data: as their first lines say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hftl

ROOT = Path(hftl.__file__).parents[1]
RUNS = {
    "question_answering": ("squad_v2", "minilm_l6_bert_fp16", ["--task.max-length", "128", "--task.doc-stride", "32"]),
    "text_classification": ("imdb", "minilm_l6_bert_fp16", ["--task.max-length", "32", "--phases", "lora"]),
    "image_classification": ("cifar10", "mobilenet_v2_1.0_224", ["--task.image-size", "64", "--phases", "gradual"]),
}


@pytest.mark.shared
@pytest.mark.parametrize("recipe", RUNS)
def test_two_processes_agree_after_every_phase_of_a_recipe(recipe, shared, tmp_path):
    data, model, options = RUNS[recipe]
    epochs = [option for phase in range(2) for option in (f"--phases.{phase}.epochs", "1")]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *(str(ROOT / "recipes" / f"{recipe}.py"), "--output-dir", str(tmp_path / "run"), "--task.max-rows", "61"),
        *("--batch-size", "32", "--refit", "False"),
        *("--task.data", str(shared / "data" / data), "--model", str(shared / "models" / model), *options, *epochs),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 processes x 16 rows") == done.stdout.count("result after") == 1  # one of them speaks
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    ended = [record for record in history if record["record"] == "PhaseEnded"]
    assert len(ended) == {"question_answering": 2, "text_classification": 2, "image_classification": 4}[recipe]
    for phase in ended:  # the run stops where the processes' digests differ
        assert f"2 processes agree on {phase['digest'][:8]}" in done.stdout
    assert len({phase["digest"] for phase in ended}) == len(ended)
