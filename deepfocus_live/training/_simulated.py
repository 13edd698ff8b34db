"""Simulated stacks with true masks, over the range of instruments a model should know."""

from __future__ import annotations

import itertools

import numpy as np

from deepfocus_live.simulation import SPECIMENS, Camera, Optics, simulate_focal_stack
from deepfocus_live.training._examples import LabelledStack, block_target

__all__ = ["simulated_stack", "simulated_stacks"]

_WAVELENGTH_UM = 0.55


def simulated_stacks(
    count: int, *, seed: int, shape: tuple[int, int, int] = (9, 384, 384), reduction: int = 4
) -> list[LabelledStack]:
    """Return stacks of every specimen in turn, each with optics, camera and light of its own.

    Parameters
    ----------
    count : int
    seed : int
        The same seed and arguments give the same stacks; the k-th does not depend on `count`.
    shape : (Z, Y, X)
    reduction : int
        Pixels per block of the target.
    """
    specimens = itertools.islice(itertools.cycle(SPECIMENS), count)
    return [
        simulated_stack(specimen, seed=(seed, number), shape=shape, reduction=reduction)
        for number, specimen in enumerate(specimens)
    ]


def simulated_stack(
    specimen: str, *, seed: tuple[int, int], shape: tuple[int, int, int], reduction: int = 4
) -> LabelledStack:
    """Return one stack of a specimen, everything else drawn at random from `seed`."""
    random = np.random.default_rng(seed)
    aperture = float(np.exp(random.uniform(np.log(0.1), np.log(0.8))))
    # 0.3 is what the sampling theorem asks for; cameras in use lie on either side.
    pixel_um = _WAVELENGTH_UM / aperture * random.uniform(0.2, 0.45)
    optics = Optics(
        numerical_aperture=aperture, wavelength_um=_WAVELENGTH_UM, pixel_size_um=pixel_um
    )
    fluorescence = random.random() < 0.35
    start, end = random.uniform(0.6, 1.0, 2)
    stack = simulate_focal_stack(
        specimen,
        shape=shape,
        z_step_um=optics.depth_of_field_um * random.uniform(0.6, 1.2),
        optics=optics,
        camera=_camera(random),
        contrast="fluorescence" if fluorescence else "transmitted",
        brightness_ramp=(start, end),
        vignetting=random.uniform(0.0, 0.4),
        seed=int(random.integers(2**31)),
    )
    target = np.stack([block_target(mask, None, reduction) for mask in stack.in_focus])
    kind = "fluorescence" if fluorescence else "transmitted"
    return LabelledStack(f"{specimen}, {kind}, {seed}", stack.slices, target)


def _camera(random: np.random.Generator) -> Camera:
    bit_depth = int(random.choice((8, 12, 14, 16)))
    full_scale = 2.0**bit_depth - 1.0
    electrons = 10.0 ** random.uniform(2.5, 4.5)
    offset = full_scale * random.choice((0.0, random.uniform(0.0, 0.1)))
    return Camera(
        bit_depth=bit_depth,
        offset=offset,
        electrons_at_white=electrons,
        read_noise_e=random.uniform(1.0, 4.0),
        gain=random.uniform(0.3, 0.85) * full_scale / electrons,
    )
