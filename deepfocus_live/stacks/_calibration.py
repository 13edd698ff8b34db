"""Lengths with their origin: a unit that nobody stated is never passed off as stated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.frames import Calibration, UnitSource

__all__ = ["Geometry", "length_um", "z_geometry"]


_UM_PER_UNIT = {
    "m": 1e6,
    "meter": 1e6,
    "metre": 1e6,
    "cm": 1e4,
    "centimeter": 1e4,
    "centimetre": 1e4,
    "mm": 1e3,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "pm": 1e-6,
    "picometer": 1e-6,
    "picometre": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "in": 25400.0,
    "inch": 25400.0,
}


@dataclass(frozen=True)
class Geometry:
    """Size and place of a stack's pixels, as far as they are known.

    Attributes
    ----------
    pixel_size_um, z_step_um : Calibration or None
        None where the file says nothing.
    z_um : (Z,) float64 or None
        Of every slice; from 0 where only the step is known.
    notes : tuple of str
        What was assumed or contradicted, a line each.
    """

    pixel_size_um: Calibration | None = None
    z_step_um: Calibration | None = None
    z_um: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    def with_note(self, note: str) -> Geometry:
        """Return the same with one note more."""
        return replace(self, notes=(*self.notes, note))


def length_um(value: float | None, unit: str | None) -> Calibration | None:
    """Return `value` in µm; None where it is no length, "assumed" where no unit is given."""
    if value is None or not math.isfinite(value) or value <= 0:
        return None
    # Greek mu and ImageJ's escape are written for the micro sign too.
    spelled = (unit or "").strip().replace("μ", "µ").replace("\\u00B5", "µ").lower()
    if not spelled:
        return Calibration(float(value), "assumed")
    factor = _UM_PER_UNIT.get(spelled)
    return None if factor is None else Calibration(float(value) * factor, "file")


def z_geometry(
    z_indices: Sequence[int],
    step: Calibration | None,
    positions_um: Sequence[float] | None = None,
    positions_source: UnitSource = "file",
) -> tuple[Calibration | None, NDArray[np.float64] | None, tuple[str, ...]]:
    """Return z-step, z of every slice, and notes, from what a file says of both.

    Positions of the slices win over a nominal step: they are measured or at least
    commanded, the step is often left from another setting.

    Parameters
    ----------
    z_indices : sequence of int
        Of the slices there are.
    step : Calibration or None
        The file's nominal z-step.
    positions_um : sequence of float or None
        One per slice, in µm.
    positions_source : UnitSource
        Where the unit of the positions comes from.
    """
    if positions_um is not None and len(positions_um) > 1:
        z_um = np.asarray(positions_um, dtype=np.float64)
        gaps = np.diff(z_um)
        if np.isfinite(z_um).all() and ((gaps > 0).all() or (gaps < 0).all()):
            measured = Calibration(float(np.median(np.abs(gaps))), positions_source)
            return measured, z_um, _position_notes(np.abs(gaps), measured, step)
        nominal = None if step is None else step.um * np.asarray(z_indices, np.float64)
        return step, nominal, ("the slices' z positions do not run one way: not used",)
    if step is None:
        return None, None, ()
    return step, step.um * np.asarray(z_indices, dtype=np.float64), ()


def _position_notes(
    gaps: NDArray[np.float64], measured: Calibration, step: Calibration | None
) -> tuple[str, ...]:
    notes = []
    if step is not None and abs(step.um / measured.um - 1) > 0.01:
        notes.append(
            f"the file's z-step is {step.um:g} µm, its slices are {measured.um:g} µm apart: "
            "the slices' positions are used"
        )
    if gaps.max() > 1.1 * gaps.min():
        notes.append(f"slices are {gaps.min():g} to {gaps.max():g} µm apart, not evenly")
    return tuple(notes)
