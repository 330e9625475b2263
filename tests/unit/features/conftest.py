from __future__ import annotations

import gc
from pathlib import Path

import pytest
from conftest import WORDS


@pytest.fixture(autouse=True)
def _quick_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hftl.report.curves.draw", lambda folder: None)  # slow, and none of this file's business
    gc.freeze()  # every run collects garbage, and what earlier ones left is not worth it


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training texts that all have one length, and validation texts that are shorter and longer."""
    folder = tmp_path_factory.mktemp("uneven")
    words = WORDS.split()
    for split, counts in (("train", [10] * 16), ("validation", [2, 10, 17, 3])):
        lines = ["text,label"]
        for number, count in enumerate(counts):
            drawn = [words[(7 * number + 3 * place) % len(words)] for place in range(count)]
            lines.append(f"{' '.join(drawn)},{'good' if number % 2 else 'bad'}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return folder
