"""Pictures, masks and probabilities as the page gets them, and the message that carries them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deepfocus_live.frames import StackKey
from deepfocus_live.web import Part, pack_message, unpack_message
from deepfocus_live.web._contrast import Contrast, SteadyContrast
from deepfocus_live.web._draw import draw_slice, most_counts, probability_factor
from deepfocus_live.web._encode import encode_mask, encode_probability
from deepfocus_live.web._message import JPEG, PNG
from deepfocus_live.web._pictures import PictureMaker
from deepfocus_live.web._shrink import shrink_factor, shrink_mask, shrink_slice
from tests.page import SPEC, flat, gradient


@given(st.lists(st.binary(max_size=50), max_size=5), st.dictionaries(st.text(), st.integers()))
def test_message_unpacks_to_what_was_packed(contents: list[bytes], header: dict[str, int]) -> None:
    parts = [Part(f"part {n}", PNG, content) for n, content in enumerate(contents)]
    read, unpacked = unpack_message(pack_message(header, parts))
    assert unpacked == {part.name: part.content for part in parts if part.content}
    assert read == {**header, "parts": read["parts"]}
    assert [one["length"] for one in read["parts"]] == [len(c) for c in contents if c]


def test_message_begins_with_the_big_endian_length_of_its_header() -> None:
    message = pack_message({"kind": "mask"})
    assert int.from_bytes(message[:4], "big") == len(message) - 4


def test_cut_message_is_refused() -> None:
    with pytest.raises(ValueError, match="its header says"):
        unpack_message(pack_message({}, [Part("picture", JPEG, b"picture")])[:-1])


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [
        pytest.param(1024, 1344, 1, id="a little over is left alone"),
        pytest.param(2048, 2048, 2, id="sCMOS"),
        pytest.param(5120, 5120, 5, id="large sCMOS"),
        pytest.param(64, 64, 1, id="small"),
        pytest.param(2, 9000, 2, id="a line"),
    ],
)
def test_long_side_comes_near_1024(height: int, width: int, factor: int) -> None:
    assert shrink_factor(height, width) == factor


@given(st.integers(1, 5), st.integers(5, 300), st.integers(5, 40), st.integers(0, 2**32 - 1))
def test_banded_shrinking_equals_plain_block_means(
    factor: int, height: int, width: int, seed: int
) -> None:
    z_slice = np.random.default_rng(seed).integers(0, 65536, (height, width), np.uint16)
    got = shrink_slice(z_slice, factor=factor, low=0, high=65535)
    rows, columns = height // factor, width // factor
    cut = z_slice[: rows * factor, : columns * factor].astype(np.int64)
    sums = cut.reshape(rows, factor, columns, factor).sum((1, 3))
    counts = (sums // factor**2).astype(np.float32)
    np.testing.assert_array_equal(got, (counts * np.float32(255 / 65535)).round())
    assert shrink_mask(z_slice, factor=factor).shape == got.shape


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (64, 61)])
def test_mask_is_clear_where_it_is_zero_and_white_elsewhere(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).integers(0, 2, shape, np.uint8)
    drawn = np.asarray(Image.open(io.BytesIO(encode_mask(mask))).convert("RGBA"))
    np.testing.assert_array_equal(drawn[..., 3], 255 * mask)
    np.testing.assert_array_equal(drawn[..., 0], 255 * mask)


def test_contrast_only_widens_within_a_stack_and_starts_anew_after_it() -> None:
    contrast = SteadyContrast()
    first, second, third = (StackKey("run-1", 0, t, 0) for t in range(3))
    dull = contrast.follow(first, np.array([[100, 200]], np.uint16))
    bright = contrast.follow(first, np.array([[50, 900]], np.uint16))
    again = contrast.follow(first, np.array([[100, 200]], np.uint16))
    assert bright.low < dull.low
    assert bright.high > dull.high
    assert again == bright
    dimmed = contrast.follow(second, np.array([[100, 200]], np.uint16))
    assert dimmed == bright, "the stack before says what is to come"
    assert contrast.follow(third, np.array([[100, 200]], np.uint16)).high < bright.high


def test_flat_slice_has_a_contrast() -> None:
    low, high = SteadyContrast().follow(StackKey("run-1", 0, 0, 0), flat(7))
    assert low < high


@pytest.mark.parametrize("shape", [(1, 1), (3, 9), (64, 61)])
def test_probability_comes_out_of_its_png_as_it_was(shape: tuple[int, int]) -> None:
    chance = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    drawn = Image.open(io.BytesIO(encode_probability(chance)))
    assert drawn.mode == "L"
    np.testing.assert_array_equal(np.asarray(drawn), chance)


@pytest.mark.parametrize(
    ("full", "reduction"), [((1024, 1344), 4), ((65, 71), 4), ((1025, 2047), 8), ((64, 64), 2)]
)
def test_pixel_of_a_slice_finds_its_probability(full: tuple[int, int], reduction: int) -> None:
    rows, columns = (-(-side // reduction) for side in full)
    assert probability_factor(full, np.zeros((rows, columns), np.uint8)) == reduction


def drawn(pixels: NDArray[Any], most: int = 65535) -> tuple[dict[str, Any], dict[str, bytes]]:
    header, parts = draw_slice(pixels, Contrast(0.0, 4000.0), most)
    return header, {part.name: part.content for part in parts}


def test_slice_of_a_colour_camera_is_a_picture_in_colour() -> None:
    planes = np.zeros((3, 64, 80), np.uint16)
    planes[0, :, :40], planes[2, :, 40:] = 4000, 2000
    header, parts = drawn(planes)
    picture = np.asarray(Image.open(io.BytesIO(parts["picture"])).convert("RGB")).astype(int)
    assert (header["colour"], header["width"], header["full_height"]) == (True, 80, 64)
    assert np.abs(picture[32, 8] - [255, 0, 0]).max() < 8
    assert np.abs(picture[32, 72] - [0, 0, 128]).max() < 8


def test_saturated_pixels_are_counted_and_shown_in_every_block_that_has_one() -> None:
    pixels = np.zeros((2048, 2048), np.uint16)
    pixels[7, 11] = pixels[2046, 2047] = 4095
    header, parts = drawn(pixels, most=4095)
    flags = np.asarray(Image.open(io.BytesIO(parts["saturated"])).convert("RGBA"))[..., 3]
    assert np.argwhere(flags).tolist() == [[3, 5], [1023, 1023]]
    assert header["saturated_fraction"] == pytest.approx(2 / 2048**2, abs=1e-8)
    header, parts = drawn(pixels)
    assert (header["saturated_fraction"], "saturated" in parts) == (0.0, False)


def test_camera_s_maximum_is_by_its_bits_and_else_by_the_pixels_type() -> None:
    twelve = SPEC.model_copy(update={"bits_per_sample": 12})
    assert most_counts(twelve, gradient()) == 4095
    assert most_counts(SPEC, gradient()) == most_counts(None, gradient()) == 65535
    assert most_counts(None, gradient().astype(np.uint8)) == 255


def test_earlier_slices_of_a_stack_keep_their_contrast_from_slice_to_slice() -> None:
    maker = PictureMaker(lambda: None)
    key = StackKey("earlier", 0, 0, 0)
    bright = maker.contrast_of(key, gradient())
    assert maker.contrast_of(key, flat(200)) == bright
    maker.close()
