"""Camera pixel types: what the network gets of them."""

from __future__ import annotations

import numpy as np
import pytest

from deepfocus_live.errors import InputError
from deepfocus_live.inference._counts import as_counts


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.integers(100, 256, (80, 96), dtype=np.uint16)


@pytest.mark.parametrize(
    "dtype", ["u1", "u2", ">u2", "i2", "i4", ">i4", "u4", "i8", "u8", "f2", "f4", ">f4", "f8"]
)
def test_whole_numbers_that_fit_are_taken_as_they_are(dtype: str, counts: np.ndarray) -> None:
    for given in (counts.astype(dtype), np.asfortranarray(counts.astype(dtype))):
        taken = as_counts(given)
        assert taken.dtype == np.dtype("=u2")
        assert taken.flags.c_contiguous
        np.testing.assert_array_equal(taken, counts)


def test_the_ends_of_the_range_are_counts_and_what_lies_beyond_is_stretched() -> None:
    values = np.linspace(0, 65535, 64 * 64).round().reshape(64, 64)
    for dtype in ("i4", "f4", "f8"):
        np.testing.assert_array_equal(as_counts(values.astype(dtype)), values)
        wider = (values * 2).astype(dtype)
        assert np.abs(as_counts(wider).astype(float) - values).max() <= 1
        np.testing.assert_array_equal(as_counts((values - 3).astype(dtype)), values)


def test_contiguous_counts_are_not_copied_and_views_are(counts: np.ndarray) -> None:
    assert as_counts(counts) is counts
    frame = np.random.default_rng(1).integers(0, 4096, (200, 220), dtype=np.uint16)
    view = frame[::2, 10:-10:2]
    taken = as_counts(view)
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, view)


def test_boolean_slice_is_0_and_1() -> None:
    drawn = np.eye(64, dtype=bool)
    np.testing.assert_array_equal(as_counts(drawn), np.eye(64))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize(("gain", "offset"), [(1 / 4096, 0.0), (0.01, -7.0), (300.5, 1e4)])
def test_float_slice_keeps_its_shape_over_the_whole_range(
    dtype: str, gain: float, offset: float
) -> None:
    values = np.random.default_rng(2).normal(0.0, 10.0, (70, 90)) * gain + offset
    given = values.astype(dtype)
    taken = as_counts(given).astype(float)
    assert (taken.min(), taken.max()) == (0, 65535)
    exact = given.astype(float)
    mapped = (exact - exact.min()) / (exact.max() - exact.min()) * 65535
    assert np.abs(taken - mapped).max() <= 0.51


def test_what_is_not_finite_becomes_the_lowest_or_the_highest_value() -> None:
    values = np.random.default_rng(3).uniform(-1.0, 1.0, (64, 64)).astype(np.float32)
    spoilt = values.copy()
    spoilt[0, :3] = np.nan, np.inf, -np.inf
    taken = as_counts(spoilt)
    assert taken[0, :3].tolist() == [0, 65535, 0]
    values[0, :3] = values[1:].min(), values[1:].max(), values[1:].min()
    np.testing.assert_array_equal(taken, as_counts(values))
    assert np.isnan(spoilt[0, 0])  # the caller's slice is his own


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.37, -5.0, 1e30])
def test_slice_without_range_is_zeros(value: float) -> None:
    np.testing.assert_array_equal(as_counts(np.full((64, 64), value)), 0)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(-3e38, 3e38, "f4"), (-1.7e308, 1.7e308, "f8"), (1e-44, 4e-44, "f4"), (0, 5e-324, "f8")],
)
def test_extreme_ranges_neither_overflow_nor_vanish(low: float, high: float, dtype: str) -> None:
    values = np.full((64, 64), low, dtype)
    values[::2] = high
    grey = as_counts(values)
    assert grey[:2, 0].tolist() == [65535, 0]
    np.testing.assert_array_equal(as_counts(np.stack([values] * 3, axis=-1)), grey)
    assert as_counts(np.stack([values, values[::-1], values], axis=-1)).max() == 65535


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("channels", [3, 4])
def test_three_equal_planes_give_that_plane(dtype: str, channels: int) -> None:
    top = 255 if dtype == "u1" else 65535
    plane = np.random.default_rng(4).integers(0, top, (64, 70), endpoint=True).astype(dtype)
    plane[0, 0] = top
    colours = np.zeros((64, 70, channels), dtype)
    colours[..., :3] = plane[..., np.newaxis]
    np.testing.assert_array_equal(as_counts(colours), plane)


def test_colours_are_weighted_as_the_eye_does() -> None:
    colours = np.random.default_rng(5).integers(0, 65536, (64, 64, 4)).astype(np.uint16)
    wanted = colours[..., :3] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(as_counts(colours) - wanted).max() < 1.0
    stretched = (wanted - wanted.min()) / (wanted.max() - wanted.min()) * 65535
    assert np.abs(as_counts(colours / 65536.0) - stretched).max() < 1.0
    transparent = np.where(np.arange(4) == 3, -1e9, colours / 65536.0)
    assert np.abs(as_counts(transparent) - stretched).max() < 1.0  # alpha says nothing of light


@pytest.mark.parametrize(
    ("z_slice", "words"),
    [
        pytest.param(np.zeros((63, 100), np.uint16), "63 x 100 pixels is too small", id="low"),
        pytest.param(np.zeros((100, 63, 3), np.uint8), "100 x 63 pixels is too small", id="rgb"),
        pytest.param(np.zeros((1, 100, 100), np.uint16), "must be", id="stack"),
        pytest.param(np.zeros((100, 100, 2), np.uint16), "must be", id="2 channels"),
        pytest.param(np.zeros((100, 100, 3, 1), np.uint16), "must be", id="4-D"),
        pytest.param(np.zeros(10000, np.uint16), "must be", id="1-D"),
        pytest.param(np.zeros((100, 100), complex), "complex128", id="complex"),
        pytest.param(np.full((100, 100), "a"), "must be", id="text"),
    ],
)
def test_slices_the_network_cannot_take_are_refused(z_slice: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        as_counts(z_slice)
