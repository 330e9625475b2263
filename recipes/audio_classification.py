"""Fine-tune a model that tells what is heard in a recording.

    python recipes/audio_classification.py --task.data recordings/ --model facebook/wav2vec2-base
    python recipes/audio_classification.py --config recipes/configs/birds.yaml --task.mel.sampling-rate 32000
    torchrun --nproc_per_node 2 recipes/audio_classification.py --config recipes/configs/keywords.yaml
    python recipes/audio_classification.py --help

``--task.data`` is a folder with one sub-folder a class, a csv, json, jsonl or parquet file with paths or bytes, or a
Hub name. ``--model`` is a speech encoder, or any classifier of images, which then looks at log-mel spectrograms.
"""

import sys

from hftl import Trainer
from hftl.cli import errors_in_one_line, parse_recipe


def main() -> None:
    with errors_in_one_line():
        recipe = parse_recipe(sys.argv[1:], task="audio-classification", prog=sys.argv[0])
        Trainer(recipe).fit()


if __name__ == "__main__":  # worker processes import this file too
    main()
