"""What make_samples does with places: a part is whole or absent, and nothing of others is touched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hftl import samples
from hftl.errors import HftlError
from hftl.samples import archives


def write_folder(place, fetch):
    place.mkdir()
    (place / "config.json").write_text("{}")
    return "a folder"


def write_half(place, fetch):
    write_folder(place, fetch)
    raise KeyboardInterrupt


def test_a_part_is_whole_or_absent_and_is_made_once(monkeypatch, tmp_path):
    monkeypatch.setattr(samples, "_PARTS", {"models/x": samples._Part(("config.json",), write_half)})
    with pytest.raises(KeyboardInterrupt):
        samples.make_samples(tmp_path)
    assert list((tmp_path / "models").iterdir()) == []

    monkeypatch.setattr(samples, "_PARTS", {"models/x": samples._Part(("config.json",), write_folder)})
    said = []
    assert samples.make_samples(tmp_path, say=said.append) == [tmp_path / "models/x"]
    (tmp_path / "models/x/mine.txt").write_text("kept")
    samples.make_samples(tmp_path, say=said.append)
    assert said == [f"{tmp_path / 'models/x'}: a folder", f"{tmp_path / 'models/x'}: already there"]
    assert sorted(file.name for file in (tmp_path / "models/x").iterdir()) == ["config.json", "mine.txt"]
    assert (tmp_path / "models/x").stat().st_mode == (tmp_path / "models").stat().st_mode


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in samples._PARTS for kind in ("folder", "file", "dangling link")
     if (name, kind) != ("SOURCES.md", "file")],
)  # fmt: skip
def test_something_else_in_the_place_of_a_part_is_not_touched(only, tmp_path, name, kind):
    only(name)
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    {"folder": place.mkdir, "file": place.touch, "dangling link": lambda: place.symlink_to("nowhere")}[kind]()
    with pytest.raises(HftlError, match="exists but is no sample of hftl"):
        samples.make_samples(tmp_path)
    assert os.path.lexists(place)


def test_a_directory_that_cannot_be_made_is_an_hftl_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HftlError, match=r"cannot write .*models/minilm-l6"):
        samples.make_samples(tmp_path / "file", packages=tmp_path)


def test_sources_names_every_archive(only, tmp_path):
    only("SOURCES.md")
    (file,) = samples.make_samples(tmp_path, say=lambda line: None)
    text = file.read_text(encoding="utf-8")
    for archive in (archives.MINILM, archives.EFFICIENTNET, archives.VADER):
        assert all(fact in text for fact in (archive.requirement, archive.sha256, archive.licence))
    for name in samples._PARTS:
        assert name == "SOURCES.md" or f"## {name}\n" in text


def test_importing_is_light():
    heavy = ("torch", "transformers", "safetensors", "sklearn", "numpy", "PIL")
    code = f"import sys, hftl.samples; print([name for name in {heavy} if name in sys.modules])"
    root = Path(samples.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
