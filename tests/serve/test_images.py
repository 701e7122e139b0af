"""Pictures: a real one becomes exactly what validation saw, and a hostile one is refused before it costs anything."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from deps.serve.images import image_from_bytes
from deps.serve.manifest import InputSpec
from deps.serve.refusals import RefusedError

DIGITS = InputSpec(shape=(1, 8, 8), color="L", mean=(0.5,), std=(0.25,))
IMAGENET = InputSpec(
    shape=(3, 224, 224),
    color="RGB",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=256,
    crop=224,
)


def _picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture with detail at every scale, so that a wrong resize shows."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(20 * x * (1 + c) + 9 * y) + np.cos(130 * y * (1 + c) * x) for c in range(3)]
    pixels = (np.stack(waves, axis=2) * 60 + 127).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _torchvision(image: Image.Image, spec: InputSpec) -> np.ndarray:
    """The evaluation transform of the training side."""
    steps = [v2.Resize(spec.shape[1:])] if spec.resize is None else [v2.Resize(spec.resize), v2.CenterCrop(spec.crop)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(spec.mean, spec.std)]
    return v2.Compose(steps)(image.convert(spec.color)).numpy()


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (256, 256), (301, 299), (259, 256), (256, 259), (224, 1000), (100, 80)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_becomes_what_torchvision_makes_of_it(size: tuple[int, int], kind: str):
    """Accuracy was measured with this transform; a pixel's shift at the crop would cost points nobody can explain."""
    content = _encode(_picture(*size), kind)
    expected = _torchvision(Image.open(io.BytesIO(content)), IMAGENET)
    np.testing.assert_allclose(image_from_bytes(content, IMAGENET), expected, atol=2e-6)


def test_large_jpeg_is_shrunk_while_decoding_with_little_difference():
    """A photo decodes several times faster at half its size; the price in normalised pixel values is stated here."""
    content = _encode(_picture(2400, 1800), "JPEG", quality=90)
    difference = np.abs(image_from_bytes(content, IMAGENET) - _torchvision(Image.open(io.BytesIO(content)), IMAGENET))
    assert difference.mean() < 0.02
    assert difference.max() < 0.3


def test_digit_of_the_models_size_is_taken_pixel_by_pixel():
    """8 x 8 grey pixels need no resize; the values are (pixel / 255 - mean) / std."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    image_CHW = image_from_bytes(_encode(Image.fromarray(pixels), "PNG"), DIGITS)
    assert image_CHW.dtype == np.float32
    assert image_CHW.flags.c_contiguous
    np.testing.assert_allclose(image_CHW[0], (pixels / 255 - 0.5) / 0.25, atol=1e-6)


def test_exact_resize_ignores_proportions():
    """Without ``resize`` the whole picture is squeezed into the model's shape."""
    content = _encode(_picture(40, 20), "PNG")
    expected = _torchvision(Image.open(io.BytesIO(content)), DIGITS)
    np.testing.assert_allclose(image_from_bytes(content, DIGITS), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("spec", [DIGITS, IMAGENET], ids=["grey", "colour"])
def test_every_mode_a_file_may_have_is_converted(mode: str, spec: InputSpec):
    """People send palettes, transparency, print colours and 16-bit scans."""
    if mode == "I;16":
        image = Image.fromarray(np.asarray(_picture(64, 64, "L")).astype(np.uint16) * 257)
    else:
        image = _picture(64, 64).convert(mode)
    image_CHW = image_from_bytes(_encode(image, "JPEG" if mode == "CMYK" else "PNG"), spec)
    grey = _torchvision(_picture(64, 64, "L"), DIGITS)
    assert image_CHW.shape == spec.shape
    if spec is DIGITS and mode in ("L", "RGB", "RGBA", "LA", "I;16"):
        np.testing.assert_allclose(image_CHW, grey, atol=0.05)


def test_palette_with_transparency_is_looked_up_without_a_warning():
    """Pillow warns about such files; the server must neither print that nor fail."""
    palette = _picture(16, 16).convert("P")
    content = _encode(palette, "PNG", transparency=bytes(range(256)))
    assert image_from_bytes(content, IMAGENET).shape == IMAGENET.shape


def test_photo_is_turned_upright():
    """Phones store the picture lying and say so in EXIF; a person sees it upright."""
    upright = _picture(60, 40)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to see it upright"
    content = _encode(lying, "PNG", exif=exif)
    expected = image_from_bytes(_encode(upright, "PNG"), IMAGENET)
    np.testing.assert_allclose(image_from_bytes(content, IMAGENET), expected, atol=1e-6)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [7_100, 10_000, 14_000, 60_000])
def test_decompression_bomb_is_refused_before_it_is_decoded(side: int):
    """Below, at and above Pillow's own warning and error."""
    with pytest.raises(RefusedError, match="too large; expected at most 50 million pixels") as caught:
        image_from_bytes(_bomb(side, side), DIGITS)
    assert caught.value.status == 413


def test_picture_too_narrow_to_resize_is_refused():
    """1 x 40,000 pixels pass every limit until the shorter side is brought to 256."""
    with pytest.raises(RefusedError, match="too narrow for a shorter side of 256"):
        image_from_bytes(_encode(Image.new("L", (1, 40_000)), "PNG"), IMAGENET)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"GIF89a" + bytes(50),
        _encode(_picture(8, 8), "GIF"),
        _encode(_picture(8, 8), "BMP"),
        _encode(_picture(8, 8), "TIFF"),
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["nothing", "text", "half a GIF", "GIF", "BMP", "TIFF", "a signature"],
)
def test_anything_but_jpeg_and_png_is_refused(content: bytes):
    """Fewer decoders, fewer ways in."""
    with pytest.raises(RefusedError, match="expected a JPEG or PNG file") as caught:
        image_from_bytes(content, DIGITS)
    assert caught.value.status == 415


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_picture_cut_short_is_refused(kind: str):
    """A broken upload must not be classified by its upper half."""
    content = _encode(_picture(200, 200), kind)
    with pytest.raises(RefusedError, match="the picture is damaged"):
        image_from_bytes(content[: len(content) // 2], DIGITS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_flipped_bytes_are_answered_or_refused(kind: str):
    """Whatever a decoder meets, nothing but a refusal comes out."""
    content = _encode(_picture(40, 40), kind)
    rng = np.random.default_rng(0)
    statuses = set()
    for _ in range(300):
        broken = bytearray(content)
        for place in rng.integers(0, len(content), size=3):
            broken[place] = rng.integers(0, 256)
        try:
            image_from_bytes(bytes(broken), DIGITS, max_pixels=10**6)
        except RefusedError as error:
            statuses.add(error.status)
    assert 400 in statuses
    assert statuses <= {400, 413, 415}
