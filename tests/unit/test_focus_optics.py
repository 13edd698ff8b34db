"""Depth of field, resolution, and what is said of a z-step."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from deepfocus_live.focus import depth_of_field_um, resolution_um, z_step_note
from deepfocus_live.simulation import Optics


def test_depth_of_field_is_the_waves_term_plus_the_cameras() -> None:
    air = depth_of_field_um(numerical_aperture=0.3, wavelength_um=0.5, pixel_size_um=0.65)
    np.testing.assert_allclose(air, 0.5 / 0.09 + 0.65 / 0.3)
    oil = depth_of_field_um(
        numerical_aperture=1.4, immersion_index=1.515, wavelength_um=0.5, pixel_size_um=0.1
    )
    np.testing.assert_allclose(oil, 0.5 * 1.515 / 1.96 + 0.1 * 1.515 / 1.4)


def test_depth_of_field_shrinks_with_aperture_and_grows_with_wave_pixel_and_index() -> None:
    usual = {
        "numerical_aperture": 0.5,
        "immersion_index": 1.0,
        "wavelength_um": 0.5,
        "pixel_size_um": 0.3,
    }
    depth = depth_of_field_um(**usual)
    assert depth_of_field_um(**usual | {"numerical_aperture": 0.6}) < depth
    for name, more in (("wavelength_um", 0.6), ("pixel_size_um", 0.6), ("immersion_index", 1.33)):
        assert depth_of_field_um(**usual | {name: more}) > depth


def test_the_simulated_objective_has_the_same_depth_of_field() -> None:
    optics = Optics(
        numerical_aperture=1.0, refractive_index=1.33, wavelength_um=0.6, pixel_size_um=0.2
    )
    assert optics.depth_of_field_um == depth_of_field_um(
        numerical_aperture=1.0, immersion_index=1.33, wavelength_um=0.6, pixel_size_um=0.2
    )


def test_importing_the_simulation_compiles_nothing() -> None:
    code = "import sys, deepfocus_live.simulation; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param({"numerical_aperture": 0}, "numerical_aperture is 0: give", id="no-aperture"),
        pytest.param({"pixel_size_um": float("nan")}, "pixel_size_um is nan", id="pixel-nan"),
        pytest.param({"immersion_index": -1.0}, "immersion_index is -1.0", id="negative-index"),
        pytest.param({"wavelength_um": 550}, "nanometres, give 0.55", id="wave-in-nm"),
        pytest.param({"numerical_aperture": 1.4}, "not below immersion_index 1.0", id="dry-oil"),
    ],
)
def test_impossible_optics_are_refused_with_the_reason(
    wrong: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        depth_of_field_um(**{"numerical_aperture": 0.3, "pixel_size_um": 0.65} | wrong)


def test_resolution_is_rayleighs() -> None:
    np.testing.assert_allclose(resolution_um(0.3, 0.55), 0.61 * 0.55 / 0.3)
    with pytest.raises(ValueError, match="numerical_aperture is 0"):
        resolution_um(0.0)
    with pytest.raises(ValueError, match="nanometres"):
        resolution_um(0.3, 550)


@pytest.mark.parametrize(
    ("z_step_um", "depth_um", "says"),
    [
        (6.0, 4.1, "z-step 6.0 µm is above the depth of field 4.1 µm: what lies between slices "
         "is sharp in none; take steps of 4 µm or less"),
        (-25.0, 18.7, "take steps of 18 µm or less"),
        (2.0, 0.876, "above the depth of field 0.88 µm: .* take steps of 0.87 µm or less"),
        (0.5, 0.29, "take steps of 0.29 µm or less"),
    ],
)  # fmt: skip
def test_a_step_above_the_depth_of_field_is_said(
    z_step_um: float, depth_um: float, says: str
) -> None:
    note = z_step_note(z_step_um, depth_um)
    assert note is not None
    assert "\n" not in note
    with pytest.raises(ValueError, match=says):
        raise ValueError(note)


def test_a_step_up_to_the_depth_of_field_needs_no_note() -> None:
    assert z_step_note(4.0, 4.1) is None
    assert z_step_note(4.1, 4.1) is None
    with pytest.raises(ValueError, match="z_step_um is 0"):
        z_step_note(0, 4.1)
    with pytest.raises(ValueError, match="depth_of_field_um is -1"):
        z_step_note(4.0, -1)
