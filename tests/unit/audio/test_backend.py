"""Each in a process of its own: what is imported once stays imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hftl

MEND = "import sys\nfrom hftl.audio.backend import mend_torchaudio\nmend_torchaudio()\n"
needs_torchaudio = pytest.mark.skipif(importlib.util.find_spec("torchaudio") is None, reason="needs torchaudio")


def printed(code: str, *folders: Path) -> str:
    """What a fresh Python prints, that finds modules in ``folders`` before all others."""
    places = os.pathsep.join(map(str, (*folders, Path(hftl.__file__).parents[1])))
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchaudio(folder: Path, extension: str) -> Path:
    (folder / "torchaudio" / "_extension").mkdir(parents=True)
    (folder / "torchaudio" / "__init__.py").write_text("from . import _extension\n")
    (folder / "torchaudio" / "_extension" / "__init__.py").write_text(extension)
    (folder / "torchaudio" / "_extension" / "below.py").write_text("HERE = 1\n")
    return folder


@needs_torchaudio
def test_torchaudio_works_whether_or_not_its_library_loads():
    code = MEND + (
        "import torch, torchaudio\n"
        "mels = torchaudio.transforms.MelSpectrogram(16000, n_mels=20)(torch.randn(1, 16000))\n"
        "halved = torchaudio.transforms.Resample(16000, 8000)(torch.ones(1, 16000))\n"
        "filtered = torchaudio.functional.lowpass_biquad(torch.randn(1, 100), 16000, 4000.0)\n"
        "print(*mels.shape, *halved.shape, *filtered.shape)"
    )
    assert printed(code) == "1 20 81 1 8000 1 100"


def test_nothing_is_imported_and_once_is_enough():
    code = MEND + "finders = len(sys.meta_path)\nmend_torchaudio()\nimport json, wave\n"
    loaded = "[name for name in ('torch', 'torchaudio', 'numpy', 'soundfile') if name in sys.modules]"
    assert printed(code + f"print({loaded}, len(sys.meta_path) - finders)") == "[] 0"


def test_where_the_library_loads_the_real_module_is_used(tmp_path):
    fake = fake_torchaudio(tmp_path, "_IS_TORCHAUDIO_EXT_AVAILABLE = 'really'\n")
    code = MEND + (
        "import torchaudio\nimport torchaudio._extension.below as below\n"
        "print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE, below.HERE, torchaudio._extension.__file__,"
        " hasattr(torchaudio._extension, '_load_lib'))"
    )
    assert printed(code, fake) == f"really 1 {tmp_path / 'torchaudio' / '_extension' / '__init__.py'} False"


def test_where_it_does_not_load_what_others_import_is_there(tmp_path):
    broken = "_IS_TORCHAUDIO_EXT_AVAILABLE = True\n_check_cuda_version = _load_lib = None\nraise OSError('libcudart')\n"
    code = MEND + (
        "from torchaudio._extension import _IS_ALIGN_AVAILABLE, _IS_TORCHAUDIO_EXT_AVAILABLE, _check_cuda_version\n"
        "from torchaudio._extension import _load_lib, fail_if_no_align\n"
        "import torchaudio._extension.below\n"
        "print(_IS_ALIGN_AVAILABLE, _IS_TORCHAUDIO_EXT_AVAILABLE, _check_cuda_version(), _load_lib('any'))\n"
        "@fail_if_no_align\n"
        "def forced_align(a, b=1): return a\n"
        "print(forced_align.__name__)\n"
        "try: forced_align(1, b=2)\n"
        "except RuntimeError as error: print(error)"
    )
    first, name, why = printed(code, fake_torchaudio(tmp_path, broken)).splitlines()
    assert (first, name) == ("False False None False", "forced_align")
    assert "forced_align" in why
    assert "native library" in why


def test_other_faults_of_the_module_are_not_hidden(tmp_path):
    code = MEND + "try: import torchaudio\nexcept ImportError as error: print(error)"
    assert printed(code, fake_torchaudio(tmp_path, "raise ImportError('another fault')\n")) == "another fault"


def test_without_torchaudio_the_import_fails_as_ever(tmp_path):
    (tmp_path / "torchaudio").mkdir()
    (tmp_path / "torchaudio" / "__init__.py").write_text("")
    code = MEND + "try: import torchaudio._extension\nexcept ModuleNotFoundError as error: print(error.name)"
    assert printed(code, tmp_path) == "torchaudio._extension"
