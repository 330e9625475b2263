"""What is measured: each contender, on what, and how long that should take. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hftl.tasks import find

GROUPS = ("probe-images", "probe-text", "probe-audio", "full-images", "full-text", "questions", "overhead", "memory")
FEATURES = 1280
"""Width of the features in the measurement of memory."""
TASKS = {
    "image": "image-classification",
    "audio": "audio-classification",
    "text": "text-classification",
    "question": "question-answering",
}
STARTUP = 9.0
"""Seconds that a process takes before its first step: imports, reading, loading."""
RATES: dict[tuple[str, int, str], tuple[float, float]] = {
    ("image", 224, "plain"): (17, 6),
    ("image", 224, "fp32"): (110, 24),
    ("image", 224, "bf16"): (200, 45),
    ("audio", 975, "plain"): (450, 150),
    ("audio", 975, "fp32"): (700, 250),
    ("audio", 975, "bf16"): (900, 300),
    ("text", 256, "plain"): (27, 6),
    ("text", 256, "fp32"): (28, 9),
    ("text", 256, "bf16"): (65, 18),
    ("text", 512, "plain"): (13, 0.9),
    ("text", 512, "fp32"): (20, 1.8),
    ("text", 512, "bf16"): (40, 8),
    ("question", 384, "plain"): (14, 1.5),
    ("question", 384, "fp32"): (30, 4),
    ("question", 384, "bf16"): (60, 14),
    ("text", 128, "plain"): (150, 60),
    ("text", 128, "fp32"): (200, 80),
    ("text", 128, "bf16"): (400, 160),
}
"""Rows a second forward and in training on 2 CPU cores, for the prediction alone; "plain": Trainer as people run it."""


@dataclass(frozen=True)
class Source:
    """A model and labelled data for it; ``size`` is the height and width in pixels, the most tokens, or the
    milliseconds of a window."""

    name: str
    kind: Literal["image", "audio", "text", "question"]
    model: str
    data: str
    size: int


@dataclass(frozen=True)
class Rows:
    """Training and validation rows."""

    train: int
    validation: int

    @property
    def total(self) -> int:
        return self.train + self.validation


@dataclass(frozen=True)
class Job:
    """One measurement, done in a process of its own.

    What is reported is ``epochs`` over ``rows``; where a contender would take hours for that, ``measured_epochs`` over
    ``measured_rows`` are run, and what is left is counted as so many times the last of these epochs.
    """

    group: str
    contender: str
    """The column of the table."""
    way: Literal["trainer", "script", "hftl", "bound", "overhead", "memory"]
    source: Source
    precision: str = "fp32"
    unfreeze: str = "head"
    rows: Rows = Rows(1024, 256)
    epochs: int = 1
    measured_rows: Rows = Rows(1024, 256)
    measured_epochs: int = 1
    batch: int = 32
    eval_batch: int = 64
    well_set_up: bool = False
    workers: int = 0
    store: bool = True
    augment: str = "none"
    repetitions: int = 0
    """0: as many as asked for."""
    seed: int = 0
    data: str = ""
    """A saved DatasetDict of exactly the measured rows."""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Job:
        """The job that ``dataclasses.asdict`` made plain."""
        rows = {name: Rows(**plain[name]) for name in ("rows", "measured_rows")}
        return cls(**{**plain, **rows, "source": Source(**plain["source"])})

    @property
    def key(self) -> str:
        """The name of the measurement."""
        return f"{self.group} / {self.source.name} / {self.contender} / {self.precision}"

    @property
    def lr(self) -> float:
        """The learning rate that hftl has for this by default."""
        task = find(TASKS[self.source.kind])
        return float(task.head_lr if self.unfreeze == "head" else task.lr)

    @property
    def repeats(self) -> float:
        """How often the last measured epoch would still have to be run."""
        return self.epochs * self.rows.train / self.measured_rows.train - self.measured_epochs

    def predicted(self) -> float:
        """Seconds on 2 CPU cores, roughly; 0 where no rate is known."""
        if self.way in ("overhead", "memory"):
            return 30.0
        speed = "plain" if self.way == "trainer" and not self.well_set_up else self.precision
        rates = RATES.get((self.source.kind, self.source.size, speed))
        if rates is None:
            return STARTUP
        once = self.way in ("script", "bound") or (self.way == "hftl" and self.store and self.unfreeze == "head")
        passes = 1 if once else self.measured_epochs
        training = rates[0] if self.unfreeze == "head" else rates[1]
        return STARTUP + passes * (self.measured_rows.train / training + self.measured_rows.validation / rates[0])


@dataclass(frozen=True)
class Scale:
    """How much of everything is measured."""

    probe: Rows = Rows(1024, 256)
    probe_peers: Rows = Rows(256, 64)
    slow_peers: Rows = Rows(128, 32)
    """Trainer on texts, which would take most of the hour."""
    epochs: int = 10
    trial: Rows = Rows(128, 64)
    images: Rows = Rows(256, 64)
    long_texts: Rows = Rows(48, 16)
    short_texts: Rows = Rows(512, 128)
    questions: Rows = Rows(96, 64)
    steps: tuple[int, int] = (600, 200)
    """Of the tiny model, and of the one whose steps take at least 20 ms."""
    memory: tuple[int, int] = (10_000, 100_000)

    @classmethod
    def quick(cls) -> Scale:
        """A look at whether everything runs."""
        few, fewer = Rows(48, 16), Rows(24, 8)
        return cls(few, fewer, fewer, 3, fewer, few, few, few, few, (60, 20), (200, 2000))

    @classmethod
    def gpu(cls) -> Scale:
        """Nothing is so slow there that less of it has to do."""
        whole = Rows(1024, 256)
        return cls(whole, whole, whole, 10, whole, whole, whole, whole, whole)


@dataclass(frozen=True)
class Sources:
    """What the machine has to measure with."""

    images: tuple[Source, ...]
    texts: tuple[Source, ...]
    short_texts: tuple[Source, ...]
    questions: tuple[Source, ...] = ()
    sounds: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()


def jobs(only: tuple[str, ...], sources: Sources, scale: Scale, best: str, seed: int = 0) -> list[Job]:
    """All measurements of these groups, in the order of one repetition; ``best`` is what precision auto comes to."""
    long_texts = tuple(replace(s, size=min(512, 2 * s.size)) for s in sources.texts)
    found: list[Job] = []
    for group, kind in (("probe-images", "images"), ("probe-text", "texts")):
        if group in only:
            found += [job for source in getattr(sources, kind) for job in _probe(group, source, scale, best)]
    if "probe-audio" in only:
        found += [job for source in sources.sounds for job in _heard(source, scale, best)]
    if "full-images" in only:
        found += [job for source in sources.images for job in _full("full-images", source, scale.images, best)]
    if "full-text" in only:
        found += [job for s in long_texts for job in _full("full-text", s, scale.long_texts, best, batch=16)]
        found += [job for s in sources.short_texts for job in _full("full-text", s, scale.short_texts, best)]
    if "questions" in only:
        found += [job for s in sources.questions for job in _questions(s, scale.questions, best)]
    trials = {(job.source.kind, workers) for job in found if job.well_set_up for workers in (0, 2)}
    found = [_trial(kind, workers, sources, scale, best) for kind, workers in sorted(trials)] + found
    if "overhead" in only:
        found += [
            _synthetic("overhead", f"{name} BERT", Rows(32 * steps, 64))
            for name, steps in zip(("tiny", "small"), scale.steps, strict=True)
        ]
    if "memory" in only:
        rows = [Rows(count, 256) for count in scale.memory]
        few: dict[str, Any] = {"epochs": 3, "measured_epochs": 3, "repetitions": 1}  # memory does not vary as time does
        found += [replace(_synthetic("memory", f"{r.train:,} rows", r), **few) for r in rows]
    return [replace(job, seed=seed) for job in found]


def _probe(group: str, source: Source, scale: Scale, best: str) -> Iterator[Job]:
    """Linear probes. Trainer's epochs are all alike: it runs two over fewer rows, of which the second counts."""
    for precision in dict.fromkeys(("fp32", best)):
        common: dict[str, Any] = {"source": source, "precision": precision, "rows": scale.probe, "epochs": scale.epochs}
        once = 0 if precision == "fp32" else 1  # in bf16 once, or the table would take more than an hour
        few = scale.probe_peers if source.kind == "image" else scale.slow_peers
        peer = {**common, "measured_rows": few, "measured_epochs": 2, "repetitions": once}
        whole = {**common, "measured_rows": scale.probe, "measured_epochs": scale.epochs}
        yield Job(group, "Trainer", "trainer", **peer)
        yield Job(group, "hftl", "hftl", **whole)
        yield Job(group, "Trainer, well set up", "trainer", well_set_up=True, **peer)
        yield Job(group, "script", "script", **whole)
        yield Job(group, "bound", "bound", **{**whole, "epochs": 1, "measured_epochs": 1})
    yield Job(group, "hftl, store off", "hftl", store=False, repetitions=1, **whole)


def _heard(source: Source, scale: Scale, best: str) -> Iterator[Job]:
    """A linear probe of a model of sound, beside Trainer as people run it, at equal precision; all is short enough."""
    for precision in dict.fromkeys(("fp32", best)):
        for name, way in (("Trainer", "trainer"), ("hftl", "hftl")):
            yield Job(
                "probe-audio",
                name,
                way,  # type: ignore[arg-type]  # two of the ways
                source,
                precision,
                rows=scale.probe,
                epochs=scale.epochs,
                measured_rows=scale.probe,
                measured_epochs=scale.epochs,
            )


def _full(group: str, source: Source, rows: Rows, best: str, batch: int = 32) -> Iterator[Job]:
    """Full fine-tuning, one epoch."""
    common: dict[str, Any] = {"source": source, "unfreeze": "all", "rows": rows, "measured_rows": rows, "batch": batch}
    yield Job(group, "Trainer", "trainer", **common)
    for precision in dict.fromkeys(("fp32", best)):
        yield Job(group, "hftl", "hftl", precision=precision, **common)
        if precision == "fp32" or source.kind == "image":
            yield Job(group, "Trainer, well set up", "trainer", well_set_up=True, precision=precision, **common)
    if source.kind == "image":
        yield Job(group, "hftl, defaults", "hftl", precision=best, augment="crop", **common)


def _questions(source: Source, rows: Rows, best: str) -> Iterator[Job]:
    """Questions on texts, one epoch of full fine-tuning; Trainer as its examples do it, every window padded."""
    common: dict[str, Any] = {"source": source, "unfreeze": "all", "rows": rows, "measured_rows": rows, "batch": 16}
    for precision in dict.fromkeys(("fp32", best)):
        for name, way in (("Trainer", "trainer"), ("hftl", "hftl")):
            yield Job("questions", name, way, precision=precision, **common)  # type: ignore[arg-type]  # two of the ways


def _trial(kind: str, workers: int, sources: Sources, scale: Scale, best: str) -> Job:
    """Whether loader workers help Trainer: a probe of few rows, once with and once without them."""
    source = (sources.images if kind == "image" else sources.texts)[0]
    rows: dict[str, Any] = {"rows": scale.trial, "measured_rows": scale.trial, "epochs": 2, "measured_epochs": 2}
    name = f"{workers} workers"
    return Job("workers", name, "trainer", source, best, workers=workers, well_set_up=True, repetitions=1, **rows)


def _synthetic(way: Literal["overhead", "memory"], name: str, rows: Rows) -> Job:
    source = Source("synthetic texts", "text", "", "", 64)
    unfreeze = "all" if way == "overhead" else "head"
    return Job(way, name, way, source, unfreeze=unfreeze, rows=rows, measured_rows=rows)


def chosen_workers(found: dict[str, Any], kind: str) -> int:
    """The better number of loader workers, where both have been tried; else none."""
    tried = {
        measurement["job"]["workers"]: measurement["repetitions"][0]["epoch_seconds"][-1]
        for measurement in found["measurements"].values()
        if measurement["job"]["group"] == "workers"
        and measurement["job"]["source"]["kind"] == kind
        and measurement["repetitions"]
    }
    return min(tried, key=tried.__getitem__, default=0)


def data_folder(work: Path, source: Source, rows: Rows, seed: int) -> Path:
    """Where the rows of a source lie as a saved DatasetDict."""
    stem = "".join(c if c.isalnum() else "-" for c in source.data.strip("/"))[-60:]
    return work / "data" / f"{stem}-{rows.train}-{rows.validation}-{seed}"
