"""hftl against transformers.Trainer, a script of twenty lines, and what the hardware allows.

    make bench                                   # about an hour on 2 CPU cores, on an otherwise idle machine
    PYTHONPATH=.:tests python -m benchmarks.bench --only probe-images --quick
    PYTHONPATH=.:tests python -m benchmarks.bench --table build/bench/bench.json

Every measurement is a process of its own; the contenders take turns within a repetition. The JSON is written after
each of them, and a second call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.material import find_sources, provide_data
from benchmarks.plan import GROUPS, Job, Scale, chosen_workers, jobs
from benchmarks.table import markdown

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "transformers", "accelerate", "datasets")

Say = Callable[[str], None]


def main() -> None:
    """Measure what is asked for and print the tables."""
    asked = _arguments()
    if asked.table:
        print(markdown(json.loads(asked.table.read_text(encoding="utf-8"))))
        return
    import torch

    from hftl.runtime.machine import best_precision

    only = tuple(asked.only.split(","))
    if unknown := [name for name in only if name not in GROUPS]:
        raise SystemExit(f"--only {unknown[0]}: there are {', '.join(GROUPS)}")
    gpu = torch.cuda.is_available()
    asked.work.mkdir(parents=True, exist_ok=True)
    sources = find_sources(asked.shared, asked.samples, asked.work, asked.quick, gpu)
    scale = Scale.quick() if asked.quick else Scale.gpu() if gpu else Scale()
    best = best_precision()
    head = {
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
        "seed": asked.seed,
        "quick": asked.quick,
        "repetitions": asked.repetitions or (1 if asked.quick else 3),
        "notes": list(sources.notes),
        "machine": machine(best, torch.cuda.get_device_name() if gpu else ""),
    }
    document = opened(asked.out, head, asked.fresh)
    measure(jobs(only, sources, scale, best, asked.seed), document, asked.out, asked.work)
    print("\n" + markdown(document))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(GROUPS), help="some of %(default)s")
    parser.add_argument("--quick", action="store_true", help="few rows, 32 px, 32 tokens, one repetition")
    parser.add_argument("--repetitions", type=int, help="3; 1 where quick")
    parser.add_argument("--seed", type=int, default=0, help="of rows, heads and order")
    parser.add_argument("--out", type=Path, default=Path("build/bench/bench.json"), help="%(default)s")
    parser.add_argument("--fresh", action="store_true", help="measure again what the JSON has already")
    parser.add_argument("--table", type=Path, metavar="FILE.json", help="print the tables of a JSON, measure nothing")
    shared = Path(os.environ.get("HFTL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=shared, help="real models and data")
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="what hftl samples wrote")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), help="rows, models, stores; %(default)s")
    return parser.parse_args()


def opened(out: Path, head: dict[str, Any], fresh: bool) -> dict[str, Any]:
    """The document to go on with, or a new one.

    Raises:
        SystemExit: what is there was measured otherwise.
    """
    if fresh or not out.is_file():
        return {**head, "measurements": {}}
    there: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    before, now = ({**each["machine"], "seed": each["seed"], "quick": each["quick"]} for each in (there, head))
    for name, value in now.items():
        if before.get(name) != value:
            raise SystemExit(
                f"{out}: it was measured with {name} {before.get(name)}, and now it is {value}; "
                "start over with --fresh, or name another --out"
            )
    return {**head, "measurements": there["measurements"]}


def missing(planned: list[Job], document: dict[str, Any]) -> Iterator[Job]:
    """What is still to be done, a whole repetition of all contenders after the other.

    A measurement whose settings have changed since is forgotten.
    """
    measurements = document["measurements"]
    for job in planned:
        plain = dataclasses.asdict(job)
        if any(measurements.get(job.key, {"job": plain})["job"][name] != plain[name] for name in _settings()):
            del measurements[job.key]
    for repetition in range(document["repetitions"]):
        for job in planned:
            done = len(measurements.get(job.key, {"repetitions": ()})["repetitions"])
            if done <= repetition < (job.repetitions or document["repetitions"]):
                yield job


def _settings() -> list[str]:
    """The fields of a job that are not found out on the way."""
    return [field.name for field in dataclasses.fields(Job) if field.name not in ("workers", "data")]


def measure(planned: list[Job], document: dict[str, Any], out: Path, work: Path, say: Say = print) -> None:
    """Do what is missing; each result is in the JSON before the next begins."""
    todo = list(missing(planned, document))
    left, begun = sum(job.predicted() for job in todo), time.monotonic()
    say(f"{len(todo)} measurements, about {left / 60:.0f} minutes on 2 CPU cores; {out}")
    for number, job in enumerate(todo, start=1):
        if job.group != "workers" and job.well_set_up:
            job = dataclasses.replace(job, workers=chosen_workers(document, job.source.kind))
        job = dataclasses.replace(job, data=provide_data(job, work))
        entry = document["measurements"].setdefault(job.key, {"job": {}, "repetitions": []})
        entry["job"] = dataclasses.asdict(job)
        entry.pop("error", None)
        result = run(job, work)
        if "error" in result:
            entry["error"] = result["error"]
        else:
            entry["repetitions"].append(result)
        _write(out, document)
        left -= job.predicted()
        told = result.get("error") or f"{result['seconds']:.1f} s ({result['process_seconds']:.1f} s in all)"
        passed = (time.monotonic() - begun) / 60
        say(f"[{number}/{len(todo)}] {job.key}: {told}; {passed:.1f} min, about {left / 60:.0f} left")


def run(job: Job, work: Path) -> dict[str, Any]:
    """What one measurement gives: a process of its own, with caches and folders that nothing else has used."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name).absolute()
        (folder / "job.json").write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        command = [sys.executable, "-m", "benchmarks.contenders", str(folder)]
        begun = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - begun
        if done.returncode:
            last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            return {"error": last}
        found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {**found, "process_seconds": seconds}


def machine(best: str, gpu: str) -> dict[str, Any]:
    """What it is measured on and with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "best_precision": best,
        "platform": platform.platform(),
        "commit": commit.stdout.strip() or "unknown",
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in PACKAGES},
        },
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    """The whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    main()
