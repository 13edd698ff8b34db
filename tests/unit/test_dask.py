"""A run as dask arrays: on request, also while it grows; one line where dask is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from deepfocus_live.errors import InputError
from deepfocus_live.volume import RunWriter, open_run
from tests.stored_frames import QUICK, pixels_of, run_spec, store_frame


def test_without_dask_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    image = open_run(writer.path).images[0]
    writer.close()
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(InputError, match=r"^dask arrays need dask: pip install deepfocus-live\[d"):
        image.dask()
    with pytest.raises(InputError, match="no label 'focus'; there are: in_focus, weak_label"):
        image.dask("focus")


def test_dask_array_shows_slices_that_are_stored_after_it_was_made(tmp_path: Path) -> None:
    pytest.importorskip("dask.array")
    writer = RunWriter.create(tmp_path, run_spec(), QUICK, about={})
    image = open_run(writer.path).images[0]
    pixels, mask = image.dask(), image.dask("in_focus")
    assert pixels.shape == mask.shape == image.image.shape
    assert pixels.chunksize == (1, 1, 1, *image.image.shape[3:])
    assert not pixels.any().compute()
    store_frame(writer, 0, {"z": 1})
    np.testing.assert_array_equal(pixels[0, 0, 1].compute(), pixels_of(0))
    assert not pixels[0, 0, [0, 2]].any().compute()
    assert not mask.any().compute()
    assert image.dask().name != pixels.name  # a cache must not take it for what it was
    writer.close()
