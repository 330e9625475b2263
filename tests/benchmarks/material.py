"""Models and data to measure with: the shared ones, else the project's samples; on a GPU, models of full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.plan import Job, Rows, Source, Sources, data_folder


def find_sources(shared: Path, samples: Path, work: Path, quick: bool, gpu: bool) -> Sources:
    """What to measure with. ``quick`` makes images of 32 px and texts of 32 tokens.

    Raises:
        SystemExit: neither folder has models and data.
    """
    reviews = samples / "data/movie-reviews"
    if (shared / "models/mobilenet_v2_1.0_224").is_dir():
        image = ("MobileNetV2 on CIFAR-10", shared / "models/mobilenet_v2_1.0_224", shared / "data/cifar10")
        text = ("MiniLM on IMDb", shared / "models/minilm_l6_bert_fp16", shared / "data/imdb")
        notes = []
    elif (samples / "models").is_dir():
        image = ("EfficientNet-Lite0 on digits", samples / "models/efficientnet-lite0", samples / "data/digits")
        text = ("MiniLM on film reviews", samples / "models/minilm-l6", reviews)
        notes = [f"{shared} is not there: measured with the project's own samples, whose texts are all short"]
    else:
        raise SystemExit(f"neither {shared} nor {samples} has models and data; make some with: hftl samples {samples}")
    if not reviews.is_dir():
        notes.append(f"{reviews} is not there: no short texts are measured")
    size = (32, 32, 32) if quick and not gpu else (224, 256, 128)  # a ViT takes images of one size alone
    images = (Source(image[0], "image", str(image[1]), str(image[2]), size[0]),)
    texts = (Source(text[0], "text", str(text[1]), str(text[2]), size[1]),)
    if gpu:
        images = tuple(
            Source(f"{name} on {image[2].name}", "image", str(full_size(name, work)), str(image[2]), size[0])
            for name in ("ResNet-50", "ViT-B-16")
        )
        bert = full_size("BERT-base", work, tokenizer=str(text[1]))
        texts = (Source(f"BERT-base on {text[2].name}", "text", str(bert), str(text[2]), size[1]),)
        notes.append("models of full size with random weights: their accuracies say nothing")
    squad, digits = shared / "data/squad_v2", shared / "data/fsdd"
    asked = (
        [Source("MiniLM on SQuAD 2.0", "question", str(text[1]), str(squad), 64 if quick else 384)]
        if squad.is_dir()
        else []
    )
    heard = [Source("YAMNet on spoken digits", "audio", str(shared / "models/yamnet_mobilenet_v1"), str(digits), 975)]
    short = [Source("short film reviews", "text", s.model, str(reviews), size[2]) for s in texts if reviews.is_dir()]
    return Sources(images, texts, tuple(short), tuple(asked), tuple(heard if digits.is_dir() else ()), tuple(notes))


def full_size(name: str, work: Path, tokenizer: str = "") -> Path:
    """The folder of a model of full size with random weights, with its processor; made where it is not there."""
    folder = work / "models" / name
    if folder.is_dir():
        return folder
    import torch
    import transformers as tf

    torch.manual_seed(0)
    if name == "ResNet-50":
        model: Any = tf.ResNetForImageClassification(tf.ResNetConfig())
        processor: Any = tf.ConvNextImageProcessor(size={"shortest_edge": 224})
    elif name == "ViT-B-16":
        model, processor = tf.ViTForImageClassification(tf.ViTConfig()), tf.ViTImageProcessor()
    else:
        processor = tf.AutoTokenizer.from_pretrained(tokenizer)
        model = tf.BertModel(tf.BertConfig(vocab_size=len(processor)))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def provide_data(job: Job, work: Path) -> str:
    """The folder of the job's rows, written where it is not there yet: all contenders read the same files."""
    if job.way == "overhead":
        return ""
    folder = data_folder(work, job.source, job.measured_rows, job.seed)
    if not folder.is_dir():
        from hftl.quiet import quiet_datasets

        rows = job.measured_rows
        with quiet_datasets():
            make = questions if job.source.kind == "question" else real
            splits = synthetic(rows) if job.way == "memory" else make(job.source, rows, job.seed)
            splits.save_to_disk(str(folder))
    return str(folder)


def real(source: Source, rows: Rows, seed: int) -> Any:
    """A seeded sample of all rows that the source has, columns image, audio or text, and label."""
    from datasets import DatasetDict, Image, concatenate_datasets
    from input_kinds import KINDS

    from hftl.data.columns import LABEL, find_column
    from hftl.data.sources import load

    splits = load(source.data, kind=KINDS[source.kind]).splits
    names = {find_column(splits["train"], KINDS[source.kind].role, None, ()): source.kind}
    names[find_column(splits["train"], LABEL, None, list(names))] = "label"
    chosen = [split.select_columns(list(names)) for split in splits.values()]
    everything = concatenate_datasets(chosen).rename_columns({k: v for k, v in names.items() if k != v})
    if len(everything) < rows.total:
        raise SystemExit(f"{source.data}: it has {len(everything):,} rows, and {rows.total:,} are measured")
    sample = everything.shuffle(seed=seed).select(range(rows.total)).flatten_indices()
    if source.kind == "image":
        sample = sample.cast_column("image", Image())
    sample = sample.class_encode_column("label")
    train, validation = sample.select(range(rows.train)), sample.select(range(rows.train, rows.total))
    return DatasetDict({"train": train, "validation": validation})


def questions(source: Source, rows: Rows, seed: int) -> Any:
    """A seeded sample of each split's questions."""
    from datasets import DatasetDict

    from hftl.tasks import QuestionAnswering

    splits = QuestionAnswering(source.data, max_length=source.size, doc_stride=16).load_data(
        seed, source.model, False, False
    )
    chosen = {"train": (splits.train, rows.train), "validation": (splits.validation, rows.validation)}
    return DatasetDict(
        {
            name: split.shuffle(seed=seed).select(range(count)).flatten_indices().remove_columns("row")
            for name, (split, count) in chosen.items()
        }
    )


def synthetic(rows: Rows) -> Any:
    """Texts of three words, no two alike, with two labels."""
    from datasets import ClassLabel, Dataset, DatasetDict

    def split(first: int, count: int) -> Any:
        texts = [f"{('good', 'bad')[row % 2]} film n{row}" for row in range(first, first + count)]
        made = Dataset.from_dict({"text": texts, "label": [row % 2 for row in range(count)]})
        return made.cast_column("label", ClassLabel(names=["negative", "positive"]))

    return DatasetDict({"train": split(0, rows.train), "validation": split(rows.train, rows.validation)})
