"""Turn a picture somebody sent into what the model takes, exactly as the manifest describes it.

Relies on Pillow, whose bilinear resizing is the one that the validation transform used; only JPEG and PNG are decoded.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

from deps.serve.engines.base import FloatArray
from deps.serve.manifest import InputSpec
from deps.serve.refusals import RefusedError

FORMATS = ("JPEG", "PNG")
MAX_PIXELS = 50_000_000

# How much larger than needed a JPEG stays when its decoder shrinks it, so that the resize still weighs many pixels.
_DRAFT_MARGIN = 3


def image_from_bytes(content: bytes | memoryview, spec: InputSpec, *, max_pixels: int = MAX_PIXELS) -> FloatArray:
    """Decode a picture and bring it into the model's shape.

    Args:
        content: a JPEG or PNG file.
        spec: colour, size and normalisation.
        max_pixels: a larger picture is refused before it is decoded.

    Returns:
        One image, shape (C, H, W).

    Raises:
        RefusedError: not a JPEG or PNG, damaged, or too large; 400, 413 or 415.
    """
    return image_from_opened(open_image(content, max_pixels=max_pixels), spec, max_pixels=max_pixels)


def open_image(content: bytes | memoryview, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read what a picture says of itself; its pixels are not decoded yet.

    Raises:
        RefusedError: not a JPEG or PNG, or too large; 413 or 415.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("", max_pixels) from error
    except Exception as error:
        raise RefusedError(
            f"the picture cannot be read ({_first_line(error)}); expected a JPEG or PNG file; convert it", status=415
        ) from error
    width, height = image.size
    if width * height > max_pixels:
        raise _too_large(f" of {width} x {height}", max_pixels)
    return image


def image_from_opened(image: Image.Image, spec: InputSpec, *, max_pixels: int = MAX_PIXELS) -> FloatArray:
    """Do the rest of ``image_from_bytes``.

    Raises:
        RefusedError: damaged, or so narrow that it would be too large once it is resized; 400.
    """
    return _normalise(_shape(_decode(image, spec), spec, max_pixels), spec)


def _decode(image: Image.Image, spec: InputSpec) -> Image.Image:
    """Return the picture upright, in the colours of the model."""
    kind = image.format
    try:
        if kind == "JPEG":
            needed = _DRAFT_MARGIN * (max(spec.shape[1:]) if spec.resize is None else spec.resize)
            image.draft(image.mode, (needed, needed))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # else it copies what is upright already
        return _convert(image, spec.color)
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        struct.error,
        zlib.error,
    ) as error:
        raise RefusedError(
            f"the picture is damaged ({_first_line(error)}); expected a whole {kind} file; send it again"
        ) from error


def _too_large(size: str, max_pixels: int) -> RefusedError:
    limit = f"{max_pixels / 1e6:.3g} million"
    return RefusedError(f"the picture{size} is too large; expected at most {limit} pixels; make it smaller", status=413)


def _convert(image: Image.Image, color: str) -> Image.Image:
    """Return the picture in grey or RGB; 16-bit grey keeps its range, and a palette's transparency is looked up."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == color else image.convert(color)


def _shape(image: Image.Image, spec: InputSpec, max_pixels: int) -> Image.Image:
    """Resize, and cut the centre out where the manifest says so."""
    _, out_height, out_width = spec.shape
    width, height = image.size
    if spec.resize is None:
        return image.resize((out_width, out_height), Image.Resampling.BILINEAR)
    if width <= height:
        size = (spec.resize, int(spec.resize * height / width))
    else:
        size = (int(spec.resize * width / height), spec.resize)
    if size[0] * size[1] > max_pixels:
        raise RefusedError(
            f"the picture of {width} x {height} is too narrow for a shorter side of {spec.resize} pixels; "
            "expected something closer to a square; crop it first"
        )
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - out_width) / 2), round((size[1] - out_height) / 2)
    return image.crop((left, top, left + out_width, top + out_height))


def _normalise(image: Image.Image, spec: InputSpec) -> FloatArray:
    pixels = np.asarray(image, dtype=np.float32).reshape(spec.shape[1], spec.shape[2], spec.shape[0])
    mean, std = np.array(spec.mean, dtype=np.float32), np.array(spec.std, dtype=np.float32)
    scaled_HWC = (pixels / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled_HWC.transpose(2, 0, 1))


def _first_line(error: Exception) -> str:
    # Pillow ends its sentence with the stream's address in memory, which tells nobody anything.
    return str(error).strip().partition("\n")[0].partition(" <")[0] or type(error).__name__
