"""Reading images, and saying why one cannot be read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import PIL.Image
import PIL.ImageOps
from datasets import Image

from hftl.data.kinds import Examined, Kind, Role, digest64
from hftl.errors import HftlError

ImageValue: TypeAlias = str | bytes | Mapping[str, Any] | PIL.Image.Image
"""A path, encoded bytes, the struct {"bytes", "path"} of ``datasets``, or an image in memory."""

IMAGE_EXTENSIONS = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
    | {".tga", ".tif", ".tiff", ".webp"}
)
"""Of the files that count as images in a folder; in lower case, with the dot."""


def read_image(value: ImageValue) -> PIL.Image.Image:
    """The image as RGB with its EXIF orientation applied, as ``transformers`` pipelines read it.

    Raises:
        HftlError: it cannot be read; the file is named.
    """
    try:
        return _upright_rgb(_opened(_encoded(value)))
    except Exception as error:  # noqa: BLE001 (Pillow's plugins raise nearly anything on damaged files)
        raise HftlError(f"{image_name(value)}: {_reason(error)}; replace or remove it") from None


def examine(value: ImageValue | None) -> Examined:
    """Whether training can use this image, and its digest.

    Decodes the whole image (JPEG at an eighth of its size: every byte is still parsed, so truncation is noticed).
    """
    if value is None:
        return Examined("no image", 0)
    try:
        source = _encoded(value)
        image = _opened(source)
        image.draft("RGB", (1, 1))
        image.load()
        # Pillow clips these to 8 bits without a word, so does every pipeline: a 16-bit scan would be all white.
        if image.mode == "F" or (image.mode.startswith("I") and _brightest(image) > 255):
            return Examined("more than 8 bits a pixel, which would be clipped to white: save it with 8", 0)
        upright = _upright_rgb(image)
    except Exception as error:  # noqa: BLE001 (as above; the reason is kept)
        return Examined(_reason(error), 0)
    if isinstance(source, bytes) and image.format in ("JPEG", "MPO"):  # an eighth of its pixels would say too little
        return Examined(None, digest64(source))
    return Examined(None, digest64(repr(upright.size).encode(), upright.tobytes()))


def as_stored(value: ImageValue) -> dict[str, Any]:
    """The struct {"bytes", "path"} in which ``datasets`` stores images; one in memory becomes PNG, without loss."""
    if isinstance(value, Mapping):
        return {"bytes": value.get("bytes"), "path": value.get("path")}
    if isinstance(value, PIL.Image.Image):
        buffer = io.BytesIO()
        _upright_rgb(value).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}
    return {"bytes": None, "path": value} if isinstance(value, str) else {"bytes": value, "path": None}


def image_name(value: ImageValue | None) -> str:
    """What to call an image in a message: its path where it has one."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get("path"):
        return str(value["path"])
    if isinstance(value, PIL.Image.Image):
        return str(getattr(value, "filename", "")) or "image in memory"
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return f"image of {len(data)} bytes" if data else "no image"


def _encoded(value: ImageValue) -> bytes | PIL.Image.Image:
    """The bytes of its file, or the image itself where it is in memory."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path") or b""
    # Read whole: a path opened lazily would keep one file handle for each image that is alive.
    return Path(value).read_bytes() if isinstance(value, str) else value


def _opened(source: bytes | PIL.Image.Image) -> PIL.Image.Image:
    """The image, its pixels not decoded yet."""
    return source.copy() if isinstance(source, PIL.Image.Image) else PIL.Image.open(io.BytesIO(source))


def _upright_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    upright = PIL.ImageOps.exif_transpose(image)
    if upright.mode == "P" and isinstance(upright.info.get("transparency"), bytes):
        # The same colours by a way on which Pillow does not warn once for each file.
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _brightest(image: PIL.Image.Image) -> float:
    low_high: Any = image.getextrema()
    return float(low_high[1])


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


IMAGE = Role(
    "image",
    "files",
    ("image", "img", "photo", "picture", "path", "image_path", "file", "filename", "file_name", "filepath",
     "file_path", "images"),
    extensions=IMAGE_EXTENSIONS,
    encoded=Image,
)  # fmt: skip
IMAGES = Kind(
    IMAGE, image_name, files="images", rows="images", extensions=IMAGE_EXTENSIONS, buffer=1_000, examine=examine
)
