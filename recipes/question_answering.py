"""Fine-tune a model that answers questions on texts.

    python recipes/question_answering.py --task.data squad/ --model google-bert/bert-base-uncased
    python recipes/question_answering.py --config recipes/configs/squad_v2.yaml --task.max-rows 2000
    torchrun --nproc_per_node 2 recipes/question_answering.py --config recipes/configs/squad.yaml
    python recipes/question_answering.py --help

``--task.data`` is a SQuAD file (json), a csv, json, jsonl or parquet file with columns question, context and answers, a
folder of such files named by split, or a Hub name.
"""

import sys

from hftl import Trainer
from hftl.cli import errors_in_one_line, parse_recipe


def main() -> None:
    with errors_in_one_line():
        recipe = parse_recipe(sys.argv[1:], task="question-answering", prog=sys.argv[0])
        Trainer(recipe).fit()


if __name__ == "__main__":  # worker processes import this file too
    main()
