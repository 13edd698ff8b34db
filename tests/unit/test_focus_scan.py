"""The sliding-window scan against its plain twin, the published map, and bad input."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deepfocus_live.focus import focus_score_blocks, focus_score_map, scan_block_px
from tests import naive

SHARED = Path(__file__).parents[2].parent / "shared"

sides = st.integers(1, 45)
window_sets = st.lists(st.integers(2, 40), min_size=1, max_size=2, unique=True)
stride_sets = st.lists(st.integers(1, 24), min_size=1, max_size=3, unique=True)


def some_slice(shape: tuple[int, int], dtype: str, seed: int) -> NDArray[Any]:
    """Pixels of `dtype` over most of its range, with a flat corner."""
    pixels = np.random.default_rng(seed).random(shape)
    pixels[: shape[0] // 2, : shape[1] // 2] = 0.5
    if dtype == "float32":
        return (1000 * (pixels - 0.3)).astype(np.float32)
    return (pixels * np.iinfo(dtype).max).astype(dtype)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(sides, sides),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    windows_px=window_sets,
    strides_px=stride_sets,
    overlap=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 2**16),
)
@example((40, 33), "uint16", [32], [16], "mean", 0)
@example((45, 45), "uint16", [16], [16, 4], "sum", 1)
@example((45, 44), "float32", [3], [7, 11], "mean", 2)
@example((7, 9), "uint8", [40], [5], "sum", 3)
def test_fast_scan_equals_the_plain_loop(
    shape: tuple[int, int],
    dtype: str,
    windows_px: list[int],
    strides_px: list[int],
    overlap: Any,
    seed: int,
) -> None:
    z_slice = some_slice(shape, dtype, seed)
    options: dict[str, Any] = {
        "windows_px": windows_px,
        "strides_px": strides_px,
        "overlap": overlap,
    }
    fast = focus_score_map(z_slice, **options)
    plain = naive.focus_score_map(z_slice, **options)
    assert fast.dtype == np.float32
    assert fast.shape == shape
    np.testing.assert_allclose(fast, plain, rtol=2e-6, atol=1e-3 if dtype == "float32" else 1e-9)


def test_published_map_of_the_zebrafish_slice_is_reproduced() -> None:
    pytest.importorskip("tifffile")
    published = SHARED / "data" / "zebrafish_slice_casus_std.npy"
    if not published.exists():
        pytest.skip("the shared data are not here")
    import tifffile

    z_slice = tifffile.imread(SHARED / "data" / "zebrafish_slice.tif")
    scores = focus_score_map(z_slice, windows_px=(128,), strides_px=range(8, 37, 2), overlap="sum")
    np.testing.assert_allclose(scores, np.load(published), rtol=1e-5)


def test_scores_fall_as_blur_grows() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    sharp = np.random.default_rng(0).integers(0, 4096, (96, 80)).astype(np.float32)
    scores = [
        focus_score_map(ndimage.gaussian_filter(sharp, sigma), windows_px=(32,), strides_px=(16,))
        for sigma in (0.5, 1, 2, 4)
    ]
    for sharper, softer in itertools.pairwise(scores):
        assert (sharper > softer).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_flat_field_scores_exactly_zero_at_any_brightness(dtype: str) -> None:
    for level in (0, 1, 137, 255):
        assert not focus_score_map(np.full((70, 51), level, dtype)).any()


def test_a_flat_part_beside_texture_scores_exactly_zero() -> None:
    z_slice = np.full((64, 256), 65535, np.uint16)
    z_slice[:, 128:] = np.random.default_rng(0).integers(0, 65536, (64, 128))
    scores = focus_score_map(z_slice, windows_px=(16,), strides_px=(8,))
    assert not scores[:, :112].any()
    assert scores[:, 128:].all()


def test_adding_an_offset_changes_nothing() -> None:
    z_slice = np.random.default_rng(0).integers(0, 256, (50, 60)).astype(np.uint16)
    np.testing.assert_array_equal(focus_score_map(z_slice), focus_score_map(z_slice + 60000))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda a: np.repeat(a, 2, axis=1)[:, ::2], id="strided"),
        pytest.param(lambda a: np.asfortranarray(a), id="fortran-order"),
        pytest.param(lambda a: a.astype(a.dtype.newbyteorder(">")), id="big-endian"),
        pytest.param(lambda a: a[::-1][::-1], id="negative-strides"),
        pytest.param(lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape), id="frozen"),
        pytest.param(lambda a: a.tolist() and np.ma.asarray(a), id="masked-array"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_memory_layout_and_byte_order_do_not_matter(view: Any, dtype: str) -> None:
    z_slice = some_slice((40, 50), dtype, 0)
    before = z_slice.copy()
    np.testing.assert_array_equal(focus_score_map(view(z_slice)), focus_score_map(z_slice))
    np.testing.assert_array_equal(z_slice, before)
    assert z_slice.flags.writeable


def test_pixels_that_no_window_covers_score_zero() -> None:
    z_slice = some_slice((30, 30), "uint16", 3)
    scores = focus_score_map(z_slice, windows_px=(4,), strides_px=(10,))
    covered = (np.arange(30) % 10 < 4)[:, None] & (np.arange(30) % 10 < 4)
    assert not scores[~covered].any()
    assert scores[20:24, 20:24].all()


def test_blocks_are_as_large_as_the_scan_allows_and_enlarge_to_the_map() -> None:
    z_slice = some_slice((70, 90), "uint8", 4)
    blocks = focus_score_blocks(z_slice, windows_px=(32,), strides_px=(16, 24))
    assert blocks.block_px == scan_block_px((32,), (16, 24)) == 8
    assert blocks.scores.shape == (9, 12)
    np.testing.assert_array_equal(
        blocks.enlarge(), focus_score_map(z_slice, windows_px=(32,), strides_px=(16, 24))
    )


GOOD = np.zeros((20, 20), np.uint16)
HOLED = np.ones((20, 20), np.float32)
HOLED[3, 4] = np.nan
ENDLESS = np.ones((20, 20), np.float32)
ENDLESS[0, 0] = np.inf


@pytest.mark.parametrize(
    ("z_slice", "options", "words"),
    [
        pytest.param(HOLED, {}, "NaN", id="nan"),
        pytest.param(np.full((20, 20), np.nan, np.float32), {}, "NaN", id="all-nan"),
        pytest.param(ENDLESS, {}, "infinity", id="infinity"),
        pytest.param(GOOD[None], {}, r"2-D.*\(1, 20, 20\)", id="3-D"),
        pytest.param(GOOD[:0], {}, "at least one pixel", id="empty"),
        pytest.param(GOOD.astype(np.int64), {}, "int64: convert", id="int64"),
        pytest.param(GOOD, {"measure": "sdt"}, "'sdt': there is .*, std, ", id="measure"),
        pytest.param(GOOD, {"windows_px": (1,)}, "2 to 65536 px wide, not 1", id="window"),
        pytest.param(GOOD, {"windows_px": (10**6,)}, "not 1000000", id="huge-window"),
        pytest.param(GOOD, {"windows_px": ()}, "at least one window", id="no-window"),
        pytest.param(GOOD, {"strides_px": (0,)}, "at least 1 px, not 0", id="stride"),
        pytest.param(GOOD, {"overlap": "median"}, "'median'", id="overlap"),
        pytest.param(GOOD, {"combine": "mean"}, "'mean'", id="combine"),
    ],
)
def test_bad_input_is_told_what_is_wrong(
    z_slice: NDArray[Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        focus_score_map(z_slice, **options)


def test_kernels_compile_where_no_cache_folder_can_be_written() -> None:
    script = (
        "import numba\n"
        "njit = numba.njit\n"
        "def no_cache(*args, cache=False, **options):\n"
        "    if cache: raise RuntimeError('cannot cache function: no locator available')\n"
        "    return njit(*args, **options)\n"
        "numba.njit = no_cache\n"
        "import numpy as np\n"
        "from deepfocus_live.focus import focus_score_map\n"
        "assert not focus_score_map(np.ones((8, 8), np.uint8)).any()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
