"""From the JSON of measurements to Markdown: a table for each comparison, and one of the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.plan import Job

TITLES = {
    "probe-images": "Linear probe, {epochs} epochs with evaluation each: {source}, {size} px",
    "probe-audio": "Linear probe, {epochs} epochs with evaluation each: {source}, windows of {size} ms",
    "probe-text": "Linear probe, {epochs} epochs with evaluation each: {source}, {size} tokens",
    "full-images": "Full fine-tuning, one epoch: {source}, {size} px",
    "full-text": "Full fine-tuning, one epoch: {source}, at most {size} tokens",
    "questions": "Question answering, full fine-tuning, one epoch: {source}, windows of {size} tokens",
}
COLUMNS = ("Trainer", "Trainer, well set up", "script", "hftl", "hftl, store off", "hftl, defaults", "bound")
SHORT = "short film reviews"


@dataclass(frozen=True)
class Target:
    """A claim, the limit that makes it true, and what was measured."""

    claim: str
    limit: float
    figure: float
    unit: str = "x"
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.figure <= self.limit if self.at_most else self.figure >= self.limit

    def row(self) -> str:
        bound = f"{'at most' if self.at_most else 'at least'} {self.limit:g}{self.unit}"
        return f"| {self.claim} | {bound} | {self.figure:.4g}{self.unit} | {'met' if self.met else '**missed**'} |"


class Found:
    """The measurements of one JSON, asked for by group, source, contender and precision."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.best: str = document["machine"]["best_precision"]
        done = [m for m in document["measurements"].values() if m["repetitions"]]
        self.jobs = [Job.of(measurement["job"]) for measurement in done]
        self.repetitions: dict[str, list[dict[str, Any]]] = {
            job.key: measurement["repetitions"] for job, measurement in zip(self.jobs, done, strict=True)
        }

    def has(self, *parts: str) -> bool:
        return " / ".join(parts) in self.repetitions

    def median(self, name: str, *parts: str) -> float:
        """The median of a value over the repetitions; ``last`` is the accuracy after the last epoch."""
        each = self.repetitions[" / ".join(parts)]
        return statistics.median(one["accuracies"][-1] if name == "last" else one[name] for one in each)

    def seconds(self, *parts: str) -> float:
        """The median time of all epochs over all rows, see ``Job``."""
        job = next(job for job in self.jobs if job.key == " / ".join(parts))
        return statistics.median(reported(job, one) for one in self.repetitions[job.key])

    def comparisons(self) -> list[tuple[str, str]]:
        """Groups and names of sources, each once."""
        return [*dict.fromkeys((job.group, job.source.name) for job in self.jobs if job.group in TITLES)]


def reported(job: Job, repetition: dict[str, Any]) -> float:
    """Seconds of all epochs over all rows: those measured, and what is left as so many times the last epoch."""
    return float(repetition["seconds"] + (job.repeats * repetition["epoch_seconds"][-1] if job.repeats else 0))


def targets(found: Found) -> Iterator[Target]:
    """Every claim whose measurements are there."""
    for group, source in found.comparisons():
        make = {"probe": _probe, "full": _full, "questions": _questions}[group.partition("-")[0]]
        yield from make(found, group, source)
    loops = {job.contender: job.key.split(" / ") for job in found.jobs if job.group == "overhead"}
    for text, name, limit, unit in (
        ("tiny BERT", "overhead_us", 500.0, " µs a step"),
        ("small BERT", "overhead_percent", 3.0, " % of a step"),
    ):
        if parts := loops.get(text):
            claim = f"hftl's loop over bare PyTorch, {text} ({found.median('bare_ms', *parts):.2f} ms a step)"
            yield Target(claim, limit, found.median(name, *parts), unit, at_most=True)
    probes = [job.key.split(" / ") for job in found.jobs if job.group == "memory"]
    if len(probes) == 2:
        few, many = probes
        private, features = (found.median(n, *many) - found.median(n, *few) for n in ("private_mb", "features_mb"))
        claim = f"a probe's own memory, {few[2]} to {many[2]}: growth as a share of that of the features"
        yield Target(claim, 10.0, 100 * private / features, " %", at_most=True)


def _probe(found: Found, group: str, source: str) -> Iterator[Target]:
    best = found.best
    for precision in dict.fromkeys(("fp32", best)):
        ours, claim = (group, source, "hftl", precision), f"{source}, {precision}: "
        if not found.has(*ours):
            continue
        seconds = found.seconds(*ours)
        if found.has(group, source, "Trainer", precision):
            ratio = found.seconds(group, source, "Trainer", precision) / seconds
            yield Target(f"{claim}Trainer's time / hftl's", 6 if group == "probe-audio" else 8, ratio)
        if found.has(group, source, "script", precision):
            ratio = seconds / found.seconds(group, source, "script", precision)
            yield Target(f"{claim}hftl's time / the script's", 1.1, ratio, at_most=True)
        if found.has(group, source, "bound", precision):
            phase = found.median("phase_seconds", *ours) / found.seconds(group, source, "bound", precision)
            yield Target(f"{claim}the phase / one forward pass", 1.15, phase, at_most=True)
    both = found.has(group, source, "Trainer", "fp32") and found.has(group, source, "hftl", best)
    if both and group != "probe-audio":
        ratio = found.seconds(group, source, "Trainer", "fp32") / found.seconds(group, source, "hftl", best)
        yield Target(f"{source}, defaults of each: Trainer's time / hftl's", 25 if "images" in group else 20, ratio)
    if found.has(group, source, "hftl, store off", best) and found.has(group, source, "hftl", best):
        scores = [found.median("last", group, source, name, best) for name in ("hftl", "hftl, store off")]
        points = 100 * abs(scores[0] - scores[1])
        yield Target(f"{source}, {best}: accuracy with and without the store", 0.5, points, " points", at_most=True)


def _full(found: Found, group: str, source: str) -> Iterator[Target]:
    images, best = group == "full-images", found.best
    default = "hftl, defaults" if images else "hftl"
    for precision in dict.fromkeys(("fp32", best)):
        for peer, limit in (("Trainer", None if images else 1.5), ("Trainer, well set up", 1.0)):
            theirs, ours = (group, source, peer, precision), (group, source, "hftl", precision)
            if limit and found.has(*theirs) and found.has(*ours):
                ratio = found.seconds(*theirs) / found.seconds(*ours)
                yield Target(f"{source}, full, {precision}: time of {peer} / hftl's", limit, ratio)
    if found.has(group, source, "Trainer", "fp32") and found.has(group, source, default, best):
        ratio = found.seconds(group, source, "Trainer", "fp32") / found.seconds(group, source, default, best)
        yield Target(f"{source}, full, defaults of each: Trainer's time / hftl's", 2 if images else 3, ratio)


def _questions(found: Found, group: str, source: str) -> Iterator[Target]:
    for claim, limit, theirs, ours in (
        *((precision, 1.9, precision, precision) for precision in dict.fromkeys(("fp32", found.best))),
        ("defaults of each", 4.0, "fp32", found.best),
    ):
        parts = (group, source, "Trainer", theirs), (group, source, "hftl", ours)
        if all(found.has(*each) for each in parts):
            ratio = found.seconds(*parts[0]) / found.seconds(*parts[1])
            yield Target(f"{source}, {claim}: Trainer's time / hftl's", limit, ratio)


def comparison(found: Found, group: str, source: str) -> str:
    """Seconds by precision and contender, with the accuracy after the last epoch where all epochs were run."""
    jobs = [job for job in found.jobs if (job.group, job.source.name) == (group, source)]
    columns = [name for name in COLUMNS if any(job.contender == name for job in jobs)]
    title = TITLES[group].format(epochs=max(j.epochs for j in jobs), source=source, size=jobs[0].source.size)
    score = "F1" if group == "questions" else "accuracy"
    lines = [f"**{title}** ({_rows(jobs[0].rows)}, batch {jobs[0].batch}; seconds, {score})", ""]
    lines += ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for precision in dict.fromkeys(job.precision for job in jobs):
        cells = {job.contender: _cell(found, job) for job in jobs if job.precision == precision}
        lines.append(f"| {precision} | " + " | ".join(cells.get(name, "-") for name in columns) + " |")
    if scaled := [job for job in jobs if job.repeats]:
        first = scaled[0]
        lines += ["", f"*: measured over {first.measured_epochs} epochs of {_rows(first.measured_rows)}; what is left "
                  f"counts as {first.repeats:g} times the last of them."]  # fmt: skip
    if any(job.repetitions == 1 for job in jobs):
        lines += ["", "†: one run."]
    return "\n".join(lines)


def _cell(found: Found, job: Job) -> str:
    parts = job.key.split(" / ")
    marks = ("*" if job.repeats else "") + ("†" if job.repetitions == 1 else "")
    seconds = f"{found.seconds(*parts):.1f}{marks}"
    measured = "accuracies" in found.repetitions[job.key][0] and not job.repeats
    return f"{seconds}, {found.median('last', *parts):.3f}" if measured else seconds


def _rows(rows: Any) -> str:
    return f"{rows.train:,} training and {rows.validation:,} evaluation rows"


def synthetic(found: Found) -> Iterator[str]:
    """Overhead and memory, where they are there."""
    rows = {group: [job for job in found.jobs if job.group == group] for group in ("overhead", "memory")}
    for group, title, names in (
        ("overhead", "Overhead of the loop", ("hftl_ms", "bare_ms", "overhead_us", "overhead_percent", "display_us")),
        ("memory", "Peak memory of a linear probe", ("peak_mb", "private_mb", "features_mb", "stored_mb", "seconds")),
    ):
        if rows[group]:
            heads = " | ".join(name.replace("_", " ") for name in names)
            lines = [f"**{title}** (medians)", "", f"| | {heads} |", "|---|" + "---:|" * len(names)]
            for job in rows[group]:
                values = (f"{found.median(name, *job.key.split(' / ')):.4g}" for name in names)
                lines.append(f"| {job.contender} | {' | '.join(values)} |")
            yield "\n".join(lines)


def markdown(document: dict[str, Any]) -> str:
    """All tables of a JSON that ``bench`` wrote."""
    found, machine = Found(document), document["machine"]
    asked = document["repetitions"]
    counts = [len(each) for job, each in ((j, found.repetitions[j.key]) for j in found.jobs) if not job.repetitions]
    done = f"medians of {asked}" + (f" (so far {min(counts)} of some)" if counts and min(counts) < asked else "")
    head = f"`{document['command']}`, seed {document['seed']}, {done}: {machine['cpu']}, {machine['cores']} cores"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [f"{head}, {machine['gpu'] or 'no GPU'}; {versions}; commit {machine['commit']}."]
    parts += [f"{note}." for note in document["notes"]]
    if document["quick"]:
        parts.append("A quick look at whether everything runs: the figures mean nothing.")
    parts += [comparison(found, group, source) for group, source in found.comparisons()]
    parts += synthetic(found)
    if rows := [target.row() for target in targets(found)]:
        parts.append("\n".join(["| target | | measured | |", "|---|---|---:|---|", *rows]))
    failed = [f"{key}: {m['error']}" for key, m in document["measurements"].items() if m.get("error")]
    if failed:
        parts.append("Failed:\n\n" + "\n".join(f"- {line}" for line in failed))
    return "\n\n".join(parts) + "\n"
