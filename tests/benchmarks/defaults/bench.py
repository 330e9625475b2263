"""hftl at its defaults, now and before, against Trainer at its own and a logistic regression on frozen features.

    make bench-defaults                                    # at most two hours on 2 idle cores
    PYTHONPATH=.:tests python -m benchmarks.defaults.bench --only digits --seeds 1

Every run is a process of its own with one thread; as many as there are cores run at once. The JSON is written after
each; a second call goes on with what is missing, and with what hftl scored before its code was changed. What the
others scored is kept while their inputs are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from benchmarks.bench import machine
from benchmarks.defaults.cells import CELLS, model_of, provide
from benchmarks.defaults.table import markdown

from hftl.quiet import quiet_datasets

ROOT = Path(__file__).parents[3]
BEFORE = "ba7eeb7"
"""The commit at which heads were stepped and phases had fixed epochs."""
CONTENDERS = ("Trainer", "logistic regression", "hftl before", "hftl, linear-probe", "hftl")


def main() -> None:
    """Measure what is missing, and print the table."""
    asked = _arguments()
    if not asked.table:
        measure(asked)
    print("\n" + markdown(json.loads(asked.out.read_text(encoding="utf-8"))))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose names contain this, as 'digits|birds'")
    parser.add_argument("--contenders", default="|".join(CONTENDERS), help="some of %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="of rows, heads and order; %(default)s")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=YAML", help="an option of hftl's recipe")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/defaults.json", help="%(default)s")
    parser.add_argument("--table", action="store_true", help="print the table of the JSON, measure nothing")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at once; %(default)s")
    shared = Path(os.environ.get("HFTL_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--shared", type=Path, default=shared, help="real models and data")
    parser.add_argument("--samples", type=Path, default=Path("samples"), help="what hftl samples wrote")
    parser.add_argument("--work", type=Path, default=Path("build/defaults"), help="rows; %(default)s")
    return parser.parse_args()


def measure(asked: argparse.Namespace) -> None:
    """Run what is missing; each result is in the JSON before the next begins."""
    document = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.is_file() else {"runs": {}}
    document["machine"] = machine("fp32", "")
    asked.work.mkdir(parents=True, exist_ok=True)
    with quiet_datasets():
        planned = [*_planned(asked, document)]
    todo = [each for each in planned if each[0] not in document["runs"]]
    print(f"{len(todo)} runs, {asked.processes} at once; {asked.out}", flush=True)
    begun = time.monotonic()
    with ThreadPoolExecutor(asked.processes) as pool:
        running = {pool.submit(run, job, asked.work): (key, job) for key, job in todo}
        for number, done in enumerate(as_completed(running), start=1):
            key, job = running[done]
            result = done.result()
            told = result.get("error") or f"{result['score']:.3f} in {result['seconds']:.1f} s"
            passed = (time.monotonic() - begun) / 60
            print(f"[{number}/{len(todo)}] {key}: {told}; {passed:.1f} min", flush=True)
            if "error" not in result:
                document["runs"][key] = {**job["of"], **result}
                draft = asked.out.with_name(f".{asked.out.name}.part")
                draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
                draft.replace(asked.out)


def _planned(asked: argparse.Namespace, document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and job of every run, a whole seed after the other; runs whose inputs have changed are forgotten."""
    settings = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in asked.set)}
    code, peers = _digest(ROOT / "hftl"), _digest(Path(__file__).parent)
    chosen = [cell for cell in CELLS if any(part in cell.name for part in asked.only.split("|"))]
    for seed in range(asked.seeds):
        for cell in chosen:
            try:
                data = provide(cell, seed, asked.shared, asked.samples, asked.work).absolute()
            except FileNotFoundError as error:
                print(f"{cell.name}: left out, {error.args[-1]} is not there", flush=True)
                continue
            for contender in asked.contenders.split("|"):
                if contender.startswith("logistic") and cell.kind == "question":
                    continue  # a span is no class
                ours = contender.startswith("hftl")
                inputs = code if ours and contender != "hftl before" else peers if not ours else BEFORE
                job = {
                    "way": "hftl" if ours else "trainer" if contender == "Trainer" else "logistic",
                    "before": contender == "hftl before",
                    "kind": cell.kind,
                    "data": str(data),
                    "model": str(model_of(cell.kind, asked.shared).absolute()),
                    "size": cell.size,
                    "strategy": "linear-probe" if contender.endswith("linear-probe") else "lp-ft",
                    "seed": seed,
                    "settings": settings if ours else {},
                    "curve": contender == "hftl" and seed == 0,
                    "of": {"cell": cell.name, "contender": contender, "seed": seed, "inputs": inputs},
                }
                if cell.kind == "question" and contender == "hftl, linear-probe":
                    continue  # its head answers for tokens, not rows
                key = f"{cell.name} / {contender} / {seed}"
                if document["runs"].get(key, {"inputs": inputs})["inputs"] != inputs:
                    del document["runs"][key]
                yield key, job


def run(job: dict[str, Any], work: Path) -> dict[str, Any]:
    """What one run gives: a process of its own, with caches and folders that nothing else has used."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name).absolute()
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        source = _as_it_was(work) if job["before"] else ROOT
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(source), str(ROOT / "tests"))),
            "HF_DATASETS_CACHE": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "benchmarks.defaults.contenders", str(folder)]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]}
        found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if recipe := found.pop("recipe", None):  # the rest of it is places on this machine, and what nobody chose
        found["chosen"] = {name: yaml.safe_load(recipe)[name] for name in ("batch_size", "phases")}
    return found


def _as_it_was(work: Path) -> Path:
    """The code of the commit ``BEFORE``, from the history of this repository."""
    folder = (work / BEFORE).absolute()
    if not folder.is_dir():
        draft = Path(tempfile.mkdtemp(dir=work))
        archive = subprocess.run(["git", "archive", BEFORE, "hftl"], cwd=ROOT, capture_output=True, check=False)
        if archive.returncode:
            raise SystemExit(f"commit {BEFORE} is not in the history; fetch it: git fetch --unshallow")
        subprocess.run(["tar", "--extract", "--directory", str(draft)], input=archive.stdout, check=True)
        try:
            draft.rename(folder)
        except OSError:  # another thread was faster
            shutil.rmtree(draft)
    return folder


def _digest(folder: Path) -> str:
    """Of all Python files."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        if file.name not in ("bench.py", "table.py", "rates.py", "display.py", "card.py", "curves.py"):
            found.update(file.read_bytes())
    return found.hexdigest()[:12]


if __name__ == "__main__":
    main()
