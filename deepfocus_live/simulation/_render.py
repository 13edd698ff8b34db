"""Focal stacks of a simulated specimen, with the truth about what is in focus.

Design Notes
------------
A specimen is a list of structures, each a patch of density with a depth per pixel. They are sorted
into thin depth layers (a pixel between two layers goes to both, in proportion), and slice *z* is
the sum of all layers, each blurred by the transfer function of its distance to *z*. The sum is
made in the Fourier domain, one layer after the other, so that memory is one accumulator per slice
and never layers × slices.

In transmitted light a density *d* takes away the part *d* of the light. What several blurred
layers leave of it is exp(-(s + s²/2)) with s the sum of their densities: 1 - s to third order for a
single layer, and never negative where dark things lie above each other. In fluorescence the sum
shines. In phase contrast the structures are weak phase objects, dark on grey with a bright halo.
Waves enter only there and where `refraction` is above 0, by the transfer function of weak phase
objects: fringes, and contrast that inverts through focus.

*Truth.* A pixel of a structure is in focus at z if |z - depth| is at most half the depth of field
or half a z-step, whichever is larger (so that every depth within the scan is in focus somewhere),
and there is something to see: the structure's own fine detail, its density less its Gaussian mean
(sigma 4 pixels), has around the pixel (Gaussian window, sigma 2.5) a root mean square of at least
0.03 of the light. A smooth shadow, however dark, is never in focus. Where structures lie above each
other each has its own say, and the depth is that of the one with the most detail.

*Undecided.* What one slice does not tell, for a network or for a person: the step beyond the
tolerance, up to twice as far from the slice (people who judge the same region twice differ by a
slice); the rim of a structure, where its detail fades from 1.5 to 2/3 of the limit; detail that the
light's noise hides, a root mean square below the noise of a pixel; and dust, which is sharp
and is no specimen. `in_focus` says of these places too what is true.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from deepfocus_live.errors import InputError
from deepfocus_live.simulation._optics import Camera, Optics
from deepfocus_live.simulation._pattern import FixedPattern
from deepfocus_live.simulation._specimens import SPECIMENS, Field, Structure

__all__ = ["Contrast", "FocalStack", "demo_stack", "focus_tolerance_um", "simulate_focal_stack"]

Contrast = Literal["transmitted", "fluorescence", "phase"]
"""How a specimen shows: dark on bright, bright on dark, or dark on grey with halos."""

_DETAIL_PX = 4.0
_WINDOW_PX = 2.5
_DETAIL_RMS = 0.03
# Detail between these parts of the limit is undecided, as is detail below the noise.
_RIM = (2 / 3, 1.5)
# How far outside the view the specimen goes on: what is blurred there reaches in, and what wraps
# around in the Fourier transform stays out, mostly.
_MARGIN_PX = 64
_FLUORESCENCE_BACKGROUND = 0.03
_PHASE_BACKGROUND = 0.55
# Steps of the table that gives the transfer function at every pixel of the Fourier plane.
_TRANSFER_STEPS = 2048


@dataclass(frozen=True)
class FocalStack:
    """A simulated z-scan and the truth about it.

    Attributes
    ----------
    slices : (Z, Y, X) uint16
        Camera counts.
    in_focus : (Z, Y, X) bool
        Where something is to be seen and it is in focus.
    undecided : (Z, Y, X) bool
        Where one slice does not tell: up to twice `focus_tolerance_um` from it, at the rim of a
        structure, where noise hides the detail, and on dust. Whoever judges a network that sees
        one slice leaves these places out; `in_focus` says of them too what is true.
    depth_um : (Y, X) float32
        True depth of what is to be seen there; NaN where there is nothing.
    z_um : (Z,) float64
        Position of each slice; the first is 0.
    pixel_size_um : float
        At the specimen.
    z_step_um : float
        Between slices.
    depth_of_field_um : float
        Total, of the objective.
    """

    slices: NDArray[np.uint16]
    in_focus: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    depth_um: NDArray[np.float32]
    z_um: NDArray[np.float64]
    pixel_size_um: float
    z_step_um: float
    depth_of_field_um: float


def focus_tolerance_um(optics: Optics, z_step_um: float) -> float:
    """Return how far (µm) from a slice something may lie and still be in focus there.

    Half the depth of field, but at least half a z-step: then every depth within the scan is in
    focus in at least one slice.

    Parameters
    ----------
    optics : Optics
        The objective.
    z_step_um : float
        Between slices, > 0.
    """
    return max(optics.depth_of_field_um, z_step_um) / 2


def simulate_focal_stack(
    specimen: str = "organoids",
    *,
    shape: tuple[int, int, int] = (11, 512, 512),
    z_step_um: float = 6.0,
    optics: Optics | None = None,
    camera: Camera | None = None,
    contrast: Contrast = "transmitted",
    refraction: float = 0.0,
    ring: float = 0.5,
    brightness_ramp: tuple[float, float] = (1.0, 1.0),
    vignetting: float = 0.12,
    pattern: FixedPattern | None = None,
    seed: int = 0,
) -> FocalStack:
    """Simulate the z-scan of a specimen.

    Parameters
    ----------
    specimen : str
        A name in `SPECIMENS`.
    shape : (Z, Y, X)
        Slices, height and width, each >= 1.
    z_step_um : float
        Between slices, > 0.
    optics : Optics, optional
        A 0.3 NA air objective at 0.65 µm per pixel by default.
    camera : Camera, optional
        A 12-bit camera, white at 3300 counts, by default.
    contrast : {"transmitted", "fluorescence", "phase"}
        Dark on bright, bright on dark, or dark on grey with halos.
    refraction : float
        In transmitted light: how much structures bend light beside absorbing it, 0 or more. Such
        contrast is nothing in focus and inverts from one side of it to the other.
    ring : float
        Part of the sharp-edged disc in the blur, 0 to 1; the rest is Gaussian. At 1 a blurred
        point is a plain disc, and detail of some sizes inverts.
    brightness_ramp : (float, float)
        Brightness of the lamp at the first and last slice, linear between, >= 0; 1 is white.
    vignetting : float
        Part of the light that is lost in the farthest corner, 0 to 1.
    pattern : FixedPattern, optional
        Stripes, uneven gain and dust; none by default.
    seed : int
        The same seed and arguments give the same stack.

    Returns
    -------
    FocalStack
        Slices, true in-focus mask, what one slice leaves undecided, and true depth. See
        `focus_tolerance_um` for the criterion; there must also be something to see, fine detail
        of at least 3 % of the light.

    Raises
    ------
    InputError
        If the specimen or contrast has no such name, or a number is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from deepfocus_live.simulation import simulate_focal_stack
    >>> scan = simulate_focal_stack("spheres", shape=(5, 64, 64), z_step_um=6.0, seed=1)
    >>> scan.slices.shape, scan.slices.dtype.name, scan.z_um.tolist()
    ((5, 64, 64), 'uint16', [0.0, 6.0, 12.0, 18.0, 24.0])
    >>> round(scan.depth_of_field_um, 2)
    8.28
    >>> somewhere = scan.in_focus.any(axis=0)
    >>> bool(np.isfinite(scan.depth_um[somewhere]).all())
    True
    """
    optics = Optics() if optics is None else optics
    camera = Camera() if camera is None else camera
    _check(specimen, shape, z_step_um, contrast, brightness_ramp, vignetting)
    _check_waves(refraction, ring)
    # Streams of their own: a longer scan or another camera leaves the specimen as it is.
    specimen_rng, light_rng, noise_rng, pattern_rng = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)
    )
    slices, height, width = shape
    z_um = np.arange(slices, dtype=np.float64) * z_step_um
    canvas = (
        scipy.fft.next_fast_len(height + 2 * _MARGIN_PX, real=True),
        scipy.fft.next_fast_len(width + 2 * _MARGIN_PX, real=True),
    )
    # A single slice still has a specimen with some depth.
    deepest = float(z_um[-1]) if slices > 1 else z_step_um
    field = Field(canvas, (0.0, deepest), optics.pixel_size_um, specimen_rng)
    structures = list(SPECIMENS[specimen](field))
    view = (slice(_MARGIN_PX, _MARGIN_PX + height), slice(_MARGIN_PX, _MARGIN_PX + width))

    truth = _truth(structures, z_um, focus_tolerance_um(optics, z_step_um), shape)
    waves = _Waves(contrast, refraction, ring)
    spectra = _blurred_spectra(structures, z_um, optics, canvas, z_step_um, waves)
    illumination = _illumination((height, width), vignetting, light_rng)
    factor, dusty = (pattern or FixedPattern()).draw((height, width), pattern_rng)
    lamp = np.linspace(*brightness_ramp, slices)
    counts = np.empty(shape, np.uint16)
    undecided = np.empty(shape, np.bool_)
    for z in range(slices):
        density = scipy.fft.irfft2(spectra[z], s=canvas, workers=1)[view]
        brightness = illumination * lamp[z]
        light = (_light_of(density, contrast) * brightness).astype(np.float32)
        counts[z] = camera.expose(light * factor, noise_rng)
        undecided[z] = truth.undecided(z, _noise_of(light, camera), brightness) | dusty
    return FocalStack(
        counts,
        truth.in_focus,
        undecided,
        truth.depth_um,
        z_um,
        optics.pixel_size_um,
        z_step_um,
        optics.depth_of_field_um,
    )


def demo_stack(seed: int = 3, *, shape: tuple[int, int, int] = (21, 512, 512)) -> FocalStack:
    """Return the demo's default specimen: focus wanders through a field of organoids.

    Organoids and cells on a tilted, curved layer in transmitted light, 5 µm from slice to slice,
    under a lamp that brightens a little during the scan. `shape` is (Z, Y, X); the same seed and
    shape give the same stack.
    """
    return simulate_focal_stack(
        "organoid_layer", shape=shape, z_step_um=5.0, brightness_ramp=(0.92, 1.0), seed=seed
    )


def _light_of(density: NDArray[np.float32], contrast: Contrast) -> NDArray[np.float32]:
    """Return the light that a slice's blurred density leaves or gives, 1 being white."""
    light: NDArray[np.float32]
    if contrast == "transmitted":
        light = np.exp(-(density + 0.5 * np.square(density))).astype(np.float32)
    elif contrast == "fluorescence":
        light = (_FLUORESCENCE_BACKGROUND + np.maximum(density, 0)).astype(np.float32)
    else:
        light = np.maximum(_PHASE_BACKGROUND - density, 0).astype(np.float32)
    return light


def _noise_of(light: NDArray[np.float32], camera: Camera) -> NDArray[np.float32]:
    """Return the deviation of shot and read noise at each pixel, as a part of white."""
    electrons = light * np.float32(camera.electrons_at_white) + np.float32(camera.read_noise_e**2)
    noise: NDArray[np.float32] = np.sqrt(electrons).astype(np.float32)
    return noise / np.float32(max(camera.electrons_at_white, 1.0))


@dataclass(frozen=True)
class _Waves:
    """How a structure's blur and contrast change with its distance from the slice."""

    contrast: Contrast
    refraction: float
    ring: float

    def transfer(
        self, optics: Optics, frequency: NDArray[np.float32], defocus_um: float
    ) -> NDArray[np.float32]:
        if self.contrast == "phase":
            return optics.phase_transfer(frequency, defocus_um)[0]
        plain = optics.transfer(frequency, defocus_um, disc_share=self.ring)
        if self.contrast == "transmitted" and self.refraction:
            bent = optics.phase_transfer(frequency, defocus_um)[1]
            plain = plain + np.float32(self.refraction) * bent
        return plain


def _blurred_spectra(
    structures: list[Structure],
    z_um: NDArray[np.float64],
    optics: Optics,
    canvas: tuple[int, int],
    z_step_um: float,
    waves: _Waves,
) -> NDArray[np.complex64]:
    """Return the Fourier transform of the total blurred density of every slice."""
    spectra = np.zeros((len(z_um), canvas[0], canvas[1] // 2 + 1), np.complex64)
    frequency = np.hypot(
        np.fft.fftfreq(canvas[0])[:, None],
        np.fft.rfftfreq(canvas[1])[None, :],
    )
    highest = math.sqrt(0.5)
    table_frequency = np.linspace(0, highest, _TRANSFER_STEPS, dtype=np.float32)
    entry = np.rint(frequency * ((_TRANSFER_STEPS - 1) / highest)).astype(np.intp)
    # Layers and slices lie on one grid, so that few distances occur, each many times.
    tables: dict[float, NDArray[np.float32]] = {}
    for depth, layer in _layers(
        structures, canvas, _layer_depths(structures, z_um, optics, z_step_um)
    ):
        spectrum = scipy.fft.rfft2(layer, workers=1)
        for z, position in enumerate(z_um):
            defocus = round(float(position) - depth, 6)
            if defocus not in tables:
                tables[defocus] = waves.transfer(optics, table_frequency, defocus)
            spectra[z] += spectrum * tables[defocus][entry]
    return spectra


def _layer_depths(
    structures: list[Structure], z_um: NDArray[np.float64], optics: Optics, z_step_um: float
) -> list[float]:
    """Return where the depth layers lie, ascending, enclosing all structures.

    Within the scan about a third of the depth of field apart, which blurs what lies between two
    layers by less than a pixel, but not finer than four to a z-step. The spacing and the z-step
    divide each other, so that what lies on a slice's plane lies on a layer, too. Beyond the scan,
    where nothing is ever sharp, the layers lie farther and farther apart.
    """
    if not structures:
        return []
    lowest = min(float(s.depth_um.min()) for s in structures)
    highest = max(float(s.depth_um.max()) for s in structures)
    depth_of_field = optics.depth_of_field_um
    wanted = max(depth_of_field / 3, z_step_um / 4)
    if wanted < z_step_um:
        spacing = z_step_um / round(z_step_um / wanted)
    else:
        spacing = z_step_um * math.floor(wanted / z_step_um)
    beyond = math.ceil(depth_of_field / spacing)
    last = beyond + math.ceil(float(z_um[-1]) / spacing)
    steps = list(range(-beyond, last + 1))
    stride = 1
    while steps[-1] * spacing < highest:
        stride *= 2
        steps.append(steps[-1] + stride)
    stride = 1
    while steps[0] * spacing > lowest:
        stride *= 2
        steps.insert(0, steps[0] - stride)
    return [step * spacing for step in steps]


def _layers(
    structures: list[Structure], canvas: tuple[int, int], depths: list[float]
) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """Yield the depth (µm) and the density of every layer that holds something.

    Two neighbouring layers share what lies between them in proportion: sharp borders between
    layers would show as lines on a tilted surface.
    """
    ranges = [(float(s.depth_um.min()), float(s.depth_um.max())) for s in structures]
    for number, depth in enumerate(depths):
        before = depths[number - 1] if number > 0 else depth - 1
        after = depths[number + 1] if number + 1 < len(depths) else depth + 1
        layer: NDArray[np.float32] | None = None
        for structure, (shallowest, deepest) in zip(structures, ranges, strict=True):
            if shallowest >= after or deepest <= before:
                continue
            here, there = _overlap(structure.origin, structure.density.shape, canvas)
            if here is None or there is None:
                continue
            if layer is None:
                layer = np.zeros(canvas, np.float32)
            own = structure.depth_um[there]
            share = np.minimum((own - before) / (depth - before), (after - own) / (after - depth))
            layer[here] += structure.density[there] * np.clip(share, 0, 1)
        if layer is not None:
            yield depth, layer


@dataclass(frozen=True)
class _Truth:
    """What is in focus, and how much detail lies within and near the tolerance of each slice."""

    in_focus: NDArray[np.bool_]
    depth_um: NDArray[np.float32]
    within: NDArray[np.float32]
    near: NDArray[np.float32]

    def undecided(
        self, z: int, noise: NDArray[np.float32], brightness: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return where slice `z` does not tell, given each pixel's noise and full light."""
        fading, sure = _RIM
        seen = self.within[z] >= np.maximum(sure * _DETAIL_RMS, noise / brightness)
        undecided: NDArray[np.bool_] = (self.near[z] >= fading * _DETAIL_RMS) & ~seen
        return undecided


def _truth(
    structures: list[Structure],
    z_um: NDArray[np.float64],
    tolerance_um: float,
    shape: tuple[int, int, int],
) -> _Truth:
    """Return the in-focus mask of every slice and the depth of what is to be seen."""
    truth = _Truth(
        np.zeros(shape, np.bool_),
        np.full(shape[1:], np.nan, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )
    strongest = np.full(shape[1:], _DETAIL_RMS, np.float32)
    # The window sees detail from outside the patch's edge.
    pad = math.ceil(3 * _WINDOW_PX)
    for structure in structures:
        row, column = structure.origin
        density = np.pad(structure.density, pad)
        origin = (row - pad - _MARGIN_PX, column - pad - _MARGIN_PX)
        here, there = _overlap(origin, density.shape, (shape[1], shape[2]))
        if here is None or there is None:
            continue
        fine = density - ndimage.gaussian_filter(density, _DETAIL_PX, mode="constant")
        power = ndimage.gaussian_filter(fine**2, _WINDOW_PX, mode="constant")
        detail = np.sqrt(power)[there]
        depth = np.pad(structure.depth_um, pad, mode="edge")[there]
        seen = detail >= _DETAIL_RMS
        for z, position in enumerate(z_um):
            away = np.abs(depth - np.float32(position))
            truth.in_focus[z][here] |= seen & (away <= tolerance_um)
            for kept, reach in ((truth.within, tolerance_um), (truth.near, 2 * tolerance_um)):
                part = kept[z][here]
                np.maximum(part, np.where(away <= reach, detail, 0), out=part)
        wins = detail >= strongest[here]
        truth.depth_um[here] = np.where(wins, depth, truth.depth_um[here])
        strongest[here] = np.where(wins, detail, strongest[here])
    return truth


_Window = tuple[slice, slice]


def _overlap(
    origin: tuple[int, int], size: tuple[int, ...], shape: tuple[int, int]
) -> tuple[_Window, _Window] | tuple[None, None]:
    """Return where a patch lies in an image of `shape`, and which part of the patch that is."""
    inside, own = [], []
    for begin, extent, limit in zip(origin, size, shape, strict=True):
        first, last = max(begin, 0), min(begin + extent, limit)
        if first >= last:
            return None, None
        inside.append(slice(first, last))
        own.append(slice(first - begin, last - begin))
    return (inside[0], inside[1]), (own[0], own[1])


def _illumination(
    shape: tuple[int, int], vignetting: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the light over the field: 1 at a centre a little off the middle, less outwards."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] - rng.uniform(-0.4, 0.4)
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :] - rng.uniform(-0.4, 0.4)
    squared = y**2 + x**2
    light: NDArray[np.float32] = (1 - vignetting * squared / squared.max()).astype(np.float32)
    return light


def _check(
    specimen: str,
    shape: tuple[int, int, int],
    z_step_um: float,
    contrast: str,
    brightness_ramp: tuple[float, float],
    vignetting: float,
) -> None:
    """Raise InputError for what cannot be simulated."""
    if specimen not in SPECIMENS:
        near = difflib.get_close_matches(specimen, SPECIMENS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no specimen {specimen!r}: choose one of {', '.join(SPECIMENS)}.{hint}")
    if contrast not in get_args(Contrast):
        raise InputError(
            f"no contrast {contrast!r}: choose one of {', '.join(get_args(Contrast))}."
        )
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"shape is {shape}: give (slices, height, width), each 1 or more.")
    if not (math.isfinite(z_step_um) and z_step_um > 0):
        raise InputError(f"z-step is {z_step_um} µm: give a number above 0.")
    if not all(math.isfinite(value) and value >= 0 for value in brightness_ramp):
        raise InputError(f"brightness ramp is {brightness_ramp}: give two numbers of 0 or more.")
    if not 0 <= vignetting <= 1:
        raise InputError(f"vignetting is {vignetting}: give a number from 0 to 1.")


def _check_waves(refraction: float, ring: float) -> None:
    if not (math.isfinite(refraction) and refraction >= 0):
        raise InputError(f"refraction is {refraction}: give a number of 0 or more.")
    if not 0 <= ring <= 1:
        raise InputError(f"ring is {ring}: give a number from 0 to 1.")
