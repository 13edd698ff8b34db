"""How a stack was imaged: what the rules may know beside the pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._evidence import GRAINS_PER_BLOCK
from deepfocus_live.focus._optics import depth_of_field_um, resolution_um, z_step_note

__all__ = ["Conditions"]

_BLOCKS_PER_WINDOW = 2
_LEAST_GRAIN_PX, _MOST_GRAIN_PX = 1, 16
_USUAL_GRAIN_PX = 2


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How a stack was imaged. Everything may be left out; nothing is guessed.

    Attributes
    ----------
    pixel_size_um : float, optional
        A camera pixel as seen at the specimen, binning included, > 0.
    z_step_um : float, optional
        Between slices; the sign does not matter.
    numerical_aperture : float, optional
        Of the objective, > 0 and below `immersion_index`.
    immersion_index : float
        Refractive index between objective and specimen: air 1.0, water 1.33, oil 1.515.
    wavelength_um : float
        In vacuum; white light counts as 0.55.
    window_um : float, optional
        Side of the windows of the `consensus` preset, > 0; used where the pixel size is
        known, to the nearest 8 px, 8 to 128 px. By default 8 resolution elements of the
        objective, 16 to 128 px, and 16 px where optics or pixel size are not known.
    dark_offset : float, optional
        Counts of a pixel that saw no light, >= 0; estimated from the stack where None.
    flat_field : (Y, X) array, optional
        An image of an empty field, its dark offset taken off, of the slices' size. Any
        scale, above 0.

    Raises
    ------
    ValueError
        If pixel size, window, dark offset or flat field is not within these limits, or no
        objective has such an aperture, index and wavelength.
    """

    pixel_size_um: float | None = None
    z_step_um: float | None = None
    numerical_aperture: float | None = None
    immersion_index: float = 1.0
    wavelength_um: float = 0.55
    window_um: float | None = None
    dark_offset: float | None = None
    flat_field: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        for name in ("pixel_size_um", "window_um"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: give a length above 0 µm")
        offset = self.dark_offset
        if offset is not None and not (np.isfinite(offset) and offset >= 0):
            raise ValueError(f"dark_offset is {offset}: give a number of counts, 0 or more")
        flat = None if self.flat_field is None else np.asarray(self.flat_field)
        if flat is not None and (flat.ndim != 2 or not np.all((flat > 0) & np.isfinite(flat))):
            raise ValueError("a flat field is (Y, X), finite and above 0 everywhere")
        if self.numerical_aperture is not None:
            # Their own doors say what cannot be.
            resolution_um(self.numerical_aperture, self.wavelength_um)
            depth_of_field_um(
                numerical_aperture=self.numerical_aperture,
                immersion_index=self.immersion_index,
                wavelength_um=self.wavelength_um,
                pixel_size_um=self.pixel_size_um or 1.0,
            )

    @property
    def grain_px(self) -> int:
        """Side in pixels of the finest detail that is looked for, an eighth of a window."""
        window_grains = GRAINS_PER_BLOCK * _BLOCKS_PER_WINDOW
        if self.pixel_size_um is None:
            return _USUAL_GRAIN_PX
        if self.window_um is not None:
            wanted = self.window_um / self.pixel_size_um / window_grains
            return int(np.clip(round(wanted), _LEAST_GRAIN_PX, _MOST_GRAIN_PX))
        if self.numerical_aperture is None:
            return _USUAL_GRAIN_PX
        finest = resolution_um(self.numerical_aperture, self.wavelength_um) / self.pixel_size_um
        return int(np.clip(round(finest), _USUAL_GRAIN_PX, _MOST_GRAIN_PX))

    @property
    def window_note(self) -> str | None:
        """One line where the window is not as wide as was asked for, else None."""
        if self.window_um is None:
            return None
        if self.pixel_size_um is None:
            return "a window in µm means nothing without a pixel size: 16 px it is"
        used = GRAINS_PER_BLOCK * _BLOCKS_PER_WINDOW * self.grain_px * self.pixel_size_um
        if 0.7 * self.window_um <= used <= 1.4 * self.window_um:
            return None
        return f"the window is {used:.3g} µm wide, not {self.window_um:.3g}: it is 8 to 128 px"

    @property
    def depth_of_field_um(self) -> float | None:
        """Total depth of field in µm; None where aperture or pixel size is not known."""
        if self.numerical_aperture is None or self.pixel_size_um is None:
            return None
        return depth_of_field_um(
            numerical_aperture=self.numerical_aperture,
            immersion_index=self.immersion_index,
            wavelength_um=self.wavelength_um,
            pixel_size_um=self.pixel_size_um,
        )

    @property
    def z_step_note(self) -> str | None:
        """One line where slices are too far apart for this objective, else None."""
        depth = self.depth_of_field_um
        if depth is None or not self.z_step_um:
            return None
        return z_step_note(self.z_step_um, depth)
