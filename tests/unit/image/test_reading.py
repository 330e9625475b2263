from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_utils import load_image

from hftl.image.reading import IMAGE_EXTENSIONS, as_stored, examine, image_name, read_image

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 64, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def why_unreadable(value: object) -> str | None:
    return examine(value).reason


def as_modes() -> dict[str, bytes]:
    transparent = PHOTO.quantize(16)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "rgb.png": encoded(PHOTO, "PNG"),
        "rgb.jpg": encoded(PHOTO, "JPEG"),
        "progressive.jpg": encoded(PHOTO, "JPEG", progressive=True),
        "cmyk.jpg": encoded(PHOTO.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(PHOTO.convert("L"), "JPEG"),
        "palette.png": encoded(PHOTO.quantize(16), "PNG"),
        "palette_transparent.png": encoded(transparent, "PNG", transparency=bytes(range(16))),
        "palette.gif": encoded(PHOTO.quantize(16), "GIF"),
        "la.png": encoded(PHOTO.convert("LA"), "PNG"),
        "rgba.png": encoded(PHOTO.convert("RGBA"), "PNG"),
        "one_bit.png": encoded(PHOTO.convert("1"), "PNG"),
        "turned.jpg": encoded(PHOTO, "JPEG", exif=exif),
        "rgb.webp": encoded(PHOTO, "WEBP", lossless=True),
        "rgb.bmp": encoded(PHOTO, "BMP"),
        "rgb.tiff": encoded(PHOTO, "TIFF"),
    }


MODES = as_modes()


@pytest.mark.filterwarnings("ignore:Palette images")  # from load_image
@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_read_as_pipelines_read_it(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(MODES[name])
    expected = np.asarray(load_image(str(path)))
    for value in (str(path), MODES[name], {"bytes": MODES[name], "path": None}, {"bytes": None, "path": str(path)}):
        image = read_image(value)
        assert image.mode == "RGB"
        assert (np.asarray(image) == expected).all()
        assert why_unreadable(value) is None
    assert (np.asarray(read_image(Image.open(path))) == expected).all()


@pytest.mark.filterwarnings("error")
def test_no_warning_for_a_transparent_palette():
    read_image(MODES["palette_transparent.png"])


def test_exif_orientation_is_applied():
    assert read_image(MODES["turned.jpg"]).size == (40, 64)


def test_an_image_in_memory_is_not_changed():
    image = PHOTO.convert("CMYK")
    read_image(image)
    assert image.mode == "CMYK"
    assert why_unreadable(image) is None


@pytest.mark.parametrize("name", ["rgb.jpg", "progressive.jpg", "rgb.png", "rgb.bmp", "rgb.webp"])
@pytest.mark.parametrize("missing", [0.05, 0.5, 0.9])
def test_truncated_files_are_found(name, missing, tmp_path, one_line_error):
    path = tmp_path / name
    path.write_bytes(MODES[name][: int(len(MODES[name]) * (1 - missing))])
    assert why_unreadable(str(path))
    with one_line_error(str(path), "replace or remove"):
        read_image(str(path))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(MODES)), place=st.floats(0, 0.999), byte=st.integers(0, 255), cut=st.booleans())
def test_what_is_called_readable_can_be_read(name, place, byte, cut):
    data = bytearray(MODES[name])
    data[int(place * len(data))] = byte
    damaged = bytes(data[: int(place * len(data))] if cut else data)
    if why_unreadable(damaged) is None:
        read_image(damaged)


def test_reasons(tmp_path):
    page = tmp_path / "page.jpg"
    page.write_text("<html>404</html>")
    wrong_ending = tmp_path / "photo.txt"
    wrong_ending.write_bytes(MODES["rgb.png"])
    (tmp_path / "empty.png").write_bytes(b"")
    assert why_unreadable(str(page)) == "not an image that Pillow knows"
    assert why_unreadable(str(wrong_ending)) is None
    assert why_unreadable(str(tmp_path / "empty.png")) == "not an image that Pillow knows"
    assert why_unreadable(str(tmp_path / "gone.png")) == "no such file"
    assert why_unreadable(str(tmp_path)) == "is a directory"
    assert why_unreadable(None) == "no image"
    assert why_unreadable({"bytes": None, "path": None})


def test_sixteen_bits_would_be_clipped_to_white_so_they_are_refused():
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    assert np.asarray(read_image(encoded(Image.fromarray(ramp), "PNG"))).min(axis=2)[1:].min() == 255
    assert "8 bits" in (why_unreadable(encoded(Image.fromarray(ramp), "PNG")) or "")
    assert why_unreadable(encoded(Image.fromarray(ramp // 256), "PNG")) is None  # 8-bit values in a 16-bit file


def test_what_a_message_calls_an_image():
    assert image_name("a/b.jpg") == "a/b.jpg"
    assert image_name({"bytes": b"123", "path": "b.jpg"}) == "b.jpg"
    assert image_name({"bytes": b"123", "path": None}) == "image of 3 bytes"
    assert image_name(PHOTO) == "image in memory"
    assert image_name(None) == "no image"


def test_stored_and_read_back_is_the_same():
    assert (np.asarray(read_image(as_stored(PHOTO))) == PIXELS).all()
    assert as_stored("a.jpg") == {"bytes": None, "path": "a.jpg"}
    assert as_stored(b"1") == {"bytes": b"1", "path": None}
    assert as_stored({"bytes": b"1", "path": "a"}) == {"bytes": b"1", "path": "a"}


def test_every_extension_is_one_that_pillow_opens():
    Image.init()
    assert set(Image.registered_extensions()) >= IMAGE_EXTENSIONS
