"""The instrument: how far a lens blurs, and how a camera counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.focus import depth_of_field_um

__all__ = ["Camera", "Optics"]

# Standard deviation of the in-focus Airy pattern's central lobe, in units of wavelength / NA.
_AIRY_SIGMA = 0.21
# Deviation, along one axis, of what light from all of the condenser blurs, in radii of the disc
# of defocus: a ring at 0.6 of the objective's aperture, a disc of 0.7 of it.
_RING_SPREAD = 0.6 / math.sqrt(2)
_DISC_SPREAD = 0.7 / 2
_HALO_PX = 12.0


@dataclass(frozen=True, kw_only=True)
class Optics:
    """A widefield objective.

    Attributes
    ----------
    numerical_aperture : float
        Of the objective, > 0 and below `refractive_index`.
    refractive_index : float
        Of the immersion, taken for the specimen's too: no spherical aberration.
    wavelength_um : float
        In vacuum, > 0.
    pixel_size_um : float
        A camera pixel as seen at the specimen, > 0.

    Raises
    ------
    InputError
        If a value is not within these limits.
    """

    numerical_aperture: float = 0.3
    refractive_index: float = 1.0
    wavelength_um: float = 0.55
    pixel_size_um: float = 0.65

    def __post_init__(self) -> None:
        for name in ("numerical_aperture", "refractive_index", "wavelength_um", "pixel_size_um"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} is {value}: give a number above 0.")
        if self.numerical_aperture >= self.refractive_index:
            raise InputError(
                f"numerical_aperture {self.numerical_aperture} is not below refractive_index "
                f"{self.refractive_index}: no such objective; check both."
            )

    @property
    def depth_of_field_um(self) -> float:
        """Total depth of field in µm; `deepfocus_live.focus.depth_of_field_um` says how."""
        return depth_of_field_um(
            numerical_aperture=self.numerical_aperture,
            immersion_index=self.refractive_index,
            wavelength_um=self.wavelength_um,
            pixel_size_um=self.pixel_size_um,
        )

    def blur_radius_px(self, defocus_um: float) -> float:
        """Return the radius (pixels) of the disc into which a point at `defocus_um` spreads.

        By geometrical optics, the distance from focus times tan(asin(NA / n)); the sign of
        `defocus_um` does not matter.
        """
        na, n = self.numerical_aperture, self.refractive_index
        return abs(defocus_um) * na / math.sqrt(n**2 - na**2) / self.pixel_size_um

    def blur_sigma_px(self, defocus_um: float) -> float:
        """Return the deviation (pixels, along one axis) of the point spread at `defocus_um`.

        The diffraction spot and the defocus disc (whose deviation is half its radius) in
        quadrature.
        """
        spot = _AIRY_SIGMA * self.wavelength_um / self.numerical_aperture / self.pixel_size_um
        return math.hypot(spot, self.blur_radius_px(defocus_um) / 2)

    def transfer(
        self, frequency: NDArray[np.float32], defocus_um: float, *, disc_share: float = 0.5
    ) -> NDArray[np.float32]:
        """Optical transfer function at radial frequencies.

        The Fourier transform of a non-negative point spread of unit sum: a defocus disc as of
        geometrical optics [Hopkins1955]_, mixed with a Gaussian of the same deviation, blurred by
        the diffraction spot. The disc alone would ring; real lenses and a finite band of colours
        soften it.

        Parameters
        ----------
        frequency : (N,) float32
            Cycles per pixel, >= 0.
        defocus_um : float
            Distance from the plane of focus; the sign does not matter.
        disc_share : float
            Part of the disc in the mixture, 0 to 1.

        Returns
        -------
        (N,) float32
            1 at frequency 0, never above it.

        References
        ----------
        .. [Hopkins1955] Hopkins (1955), The frequency response of a defocused optical system,
           Proceedings of the Royal Society A 231, 91-103.
        """
        from scipy.special import j1

        radius = self.blur_radius_px(defocus_um)
        spot = self.blur_sigma_px(0.0)
        squared = 2 * np.pi**2 * frequency.astype(np.float64) ** 2
        soft = np.exp(-squared * (radius / 2) ** 2)
        argument = 2 * np.pi * radius * frequency.astype(np.float64)
        # 2 J1(v) / v, whose limit at 0 is 1.
        near_zero = argument < 1e-6
        argument[near_zero] = 1.0
        disc = np.where(near_zero, 1.0, 2 * j1(argument) / argument)
        blur = disc_share * disc + (1 - disc_share) * soft
        return (blur * np.exp(-squared * spot**2)).astype(np.float32)

    def phase_transfer(
        self, frequency: NDArray[np.float32], defocus_um: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Transfer of a weak phase object [Streibl1985]_, with and without a phase ring.

        A wave that a structure of some spatial frequency scatters falls behind the light that
        passes by pi * wavelength * frequency**2 * defocus / n: the cosine of that is what a phase
        ring turns into contrast, the sine what shows without one. Either changes sign with
        frequency and defocus: rings round small things, contrast that inverts through focus. Light
        from all of the condenser, a ring at 0.6 or a disc of 0.7 of the objective's aperture,
        damps them.

        Parameters
        ----------
        frequency : (N,) float32
            Cycles per pixel, >= 0.
        defocus_um : float
            Distance from the plane of focus, with its sign.

        Returns
        -------
        ring, no_ring : (N,) float32
            In phase contrast, halo included; in plain transmitted light, 0 in focus.

        References
        ----------
        .. [Streibl1985] Streibl (1985), Three-dimensional imaging by a microscope, Journal of the
           Optical Society of America A 2, 121-127.
        """
        cycles = frequency.astype(np.float64)
        lag = np.pi * self.wavelength_um * (cycles / self.pixel_size_um) ** 2 * defocus_um
        lag /= self.refractive_index
        squared = 2 * np.pi**2 * cycles**2
        disc, spot = self.blur_radius_px(defocus_um), self.blur_sigma_px(0.0)
        halo = 1 - np.exp(-squared * _HALO_PX**2)
        ring = halo * np.cos(lag) * np.exp(-squared * ((_RING_SPREAD * disc) ** 2 + spot**2))
        no_ring = np.sin(lag) * np.exp(-squared * ((_DISC_SPREAD * disc) ** 2 + spot**2))
        return ring.astype(np.float32), no_ring.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A scientific camera.

    Attributes
    ----------
    bit_depth : int
        Counts end at 2 ** bit_depth - 1; 1 to 16.
    offset : float
        Counts of a pixel that saw no light, >= 0 as all that follow.
    electrons_at_white : float
        Photo-electrons per pixel where the illumination is full and nothing is in the way; sets the
        shot noise.
    read_noise_e : float
        Standard deviation of the read noise, electrons.
    gain : float
        Counts per electron.

    Raises
    ------
    InputError
        If a value is not within these limits.
    """

    bit_depth: int = 12
    offset: float = 100.0
    electrons_at_white: float = 8000.0
    read_noise_e: float = 2.0
    gain: float = 0.4

    def __post_init__(self) -> None:
        if not 1 <= self.bit_depth <= 16:
            raise InputError(f"bit_depth is {self.bit_depth}: give 1 to 16.")
        for name in ("offset", "electrons_at_white", "read_noise_e", "gain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}: give a number of 0 or more.")

    def expose(self, light: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint16]:
        """Count the light of one slice, with shot and read noise.

        Parameters
        ----------
        light : (Y, X) float32
            1 is white, >= 0.
        rng : numpy.random.Generator
            Where the noise comes from.

        Returns
        -------
        (Y, X) uint16
            Camera counts, clipped at 0 and at the bit depth.
        """
        electrons = rng.poisson(light * self.electrons_at_white).astype(np.float32)
        electrons += self.read_noise_e * rng.standard_normal(light.shape, dtype=np.float32)
        signal = np.rint(self.offset + self.gain * electrons)
        counts: NDArray[np.uint16] = np.clip(signal, 0, 2**self.bit_depth - 1).astype(np.uint16)
        return counts
