"""Focal stacks over the range of specimens, instruments and cameras that a network should know."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from deepfocus_live.simulation._optics import Camera, Optics
from deepfocus_live.simulation._pattern import FixedPattern
from deepfocus_live.simulation._render import Contrast, FocalStack, simulate_focal_stack

__all__ = ["VariedStack", "varied_focal_stack"]

# Of phase contrast, fluorescence, and transmitted light with and without refraction.
_PHASE, _FLUORESCENCE, _REFRACTING = 0.15, 0.3, 0.3
_IMMERSIONS = {1.0: (0.08, 0.9), 1.33: (0.5, 1.15), 1.515: (0.6, 1.35)}


@dataclass(frozen=True)
class VariedStack:
    """A stack, and what was drawn for it.

    Attributes
    ----------
    stack : FocalStack
        Slices and truth.
    specimen : str
        A name in `SPECIMENS`.
    contrast : {"transmitted", "fluorescence", "phase"}
        As of `simulate_focal_stack`.
    refraction : float
        Likewise; 0 where there is none.
    optics : Optics
        The objective.
    camera : Camera
        The camera.
    """

    stack: FocalStack
    specimen: str
    contrast: Contrast
    refraction: float
    optics: Optics
    camera: Camera

    @property
    def modality(self) -> str:
        """The contrast, for tables; transmitted light with refraction has a line of its own."""
        return f"{self.contrast}, refracting" if self.refraction else self.contrast

    @property
    def noise_level(self) -> str:
        """`starved` below 1000 electrons at white, `medium` below 10 000, else `bright`."""
        electrons = self.camera.electrons_at_white
        return "starved" if electrons < 1e3 else "medium" if electrons < 1e4 else "bright"


def varied_focal_stack(
    specimen: str, *, seed: int | tuple[int, ...], shape: tuple[int, int, int] = (9, 384, 384)
) -> VariedStack:
    """Simulate a stack of `specimen` with everything else drawn at random.

    Air, water or oil objectives of NA 0.08 to 1.35, wavelength 0.45 to 0.7 µm, a pixel of 0.2 to
    0.45 wavelength / NA (0.25 is what the sampling theorem asks for), z-steps of 0.4 to 1 depth of
    field (so that the truth does not depend on the step), blur from soft to ring-like; transmitted
    light with and without refraction, fluorescence, phase contrast; 8, 12, 14 or 16 bit, 200 to
    50 000 electrons at white, offsets; a lamp that drifts by up to a half, vignetting; and in some
    stacks stripes, uneven gain, dust.

    Parameters
    ----------
    specimen : str
        A name in `SPECIMENS`.
    seed : int or tuple of int
        The same seed and arguments give the same stack.
    shape : (int, int, int)
        Slices, height and width, each >= 1.

    Returns
    -------
    VariedStack
        The stack, and what was drawn.

    Raises
    ------
    InputError
        If there is no such specimen or shape.
    """
    random = np.random.default_rng(seed)
    optics = _optics(random)
    contrast, refraction = _contrast(random)
    camera = _camera(random, 0.6 if contrast == "phase" else 1.0)
    start, end = random.uniform(0.5, 1.0, 2)
    stack = simulate_focal_stack(
        specimen,
        shape=shape,
        z_step_um=optics.depth_of_field_um * random.uniform(0.4, 1.0),
        optics=optics,
        camera=camera,
        contrast=contrast,
        refraction=refraction,
        ring=random.uniform(0.2, 1.0),
        brightness_ramp=(start, end),
        vignetting=random.uniform(0.0, 0.5),
        pattern=_pattern(random),
        seed=int(random.integers(2**31)),
    )
    return VariedStack(stack, specimen, contrast, refraction, optics, camera)


def _optics(random: np.random.Generator) -> Optics:
    index = float(random.choice(list(_IMMERSIONS), p=(0.7, 0.15, 0.15)))
    lowest, highest = _IMMERSIONS[index]
    aperture = math.exp(random.uniform(math.log(lowest), math.log(highest)))
    wavelength_um = random.uniform(0.45, 0.7)
    return Optics(
        numerical_aperture=aperture,
        refractive_index=index,
        wavelength_um=wavelength_um,
        pixel_size_um=wavelength_um / aperture * random.uniform(0.2, 0.45),
    )


def _contrast(random: np.random.Generator) -> tuple[Contrast, float]:
    kind = random.random()
    if kind < _PHASE:
        return "phase", 0.0
    if kind < _PHASE + _FLUORESCENCE:
        return "fluorescence", 0.0
    refracting = kind < _PHASE + _FLUORESCENCE + _REFRACTING
    return "transmitted", random.uniform(0.1, 0.8) if refracting else 0.0


def _camera(random: np.random.Generator, brightest: float) -> Camera:
    bit_depth = int(random.choice((8, 12, 14, 16)))
    full_scale = 2.0**bit_depth - 1.0
    electrons = 10.0 ** random.uniform(2.3, 4.7)
    offset = full_scale * random.choice((0.0, random.uniform(0.0, 0.1)))
    return Camera(
        bit_depth=bit_depth,
        offset=offset,
        electrons_at_white=electrons,
        read_noise_e=random.uniform(1.0, 4.0),
        gain=random.uniform(0.3, 0.85) * full_scale / electrons / brightest,
    )


def _pattern(random: np.random.Generator) -> FixedPattern:
    stripes, spread, dust = random.random(3)
    return FixedPattern(
        stripes=random.uniform(0.001, 0.02) if stripes < 0.25 else 0.0,
        gain_spread=random.uniform(0.001, 0.01) if spread < 0.5 else 0.0,
        dust_per_megapixel=random.uniform(5.0, 60.0) if dust < 0.3 else 0.0,
    )
