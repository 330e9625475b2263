"""Made-up archives, and one part at a time."""

import dataclasses
import hashlib
import io
import tarfile
import zipfile

import pytest

from hftl import samples


@pytest.fixture
def only(monkeypatch):
    """Lets make_samples make one part: only("data/digits")."""

    def keep(name):
        monkeypatch.setattr(samples, "_PARTS", {name: samples._PARTS[name]})

    return keep


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Puts made-up content in the place of an archive that a module uses; returns the folder of packages."""

    def put(module, constant, content):
        archive = dataclasses.replace(getattr(module, constant), sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(module, constant, archive)
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / archive.filename).write_bytes(content)
        return folder

    return put


@pytest.fixture
def tar_gz():
    """Bytes of a .tar.gz with one member."""

    def pack(name, content):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        return file.getvalue()

    return pack


@pytest.fixture
def wheel():
    """Bytes of a wheel with one folder."""

    def pack(folder, members):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(folder + name, content)
        return file.getvalue()

    return pack
