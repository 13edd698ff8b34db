"""What lies under the objective: structures with a density and a depth, by kind of specimen.

A new kind is a function that yields `Structure`, entered in `SPECIMENS`. It sees only a `Field`
(how large, how deep, which random numbers) and knows nothing of optics, light or camera. Sizes are
in pixels, for that is what a network sees; depths are in µm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SPECIMENS", "Field", "Structure"]

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Field:
    """The room a specimen may fill.

    Attributes
    ----------
    shape : (int, int)
        Height and width in pixels. Larger than the camera's view by a margin, so that structures
        reach in from outside.
    depth_um : (float, float)
        First and last plane of the scan. Structures may lie beyond: they never come into focus.
    pixel_size_um : float
        To turn a structure's width into a plausible thickness.
    rng : numpy.random.Generator
        The only source of chance.
    """

    shape: tuple[int, int]
    depth_um: tuple[float, float]
    pixel_size_um: float
    rng: np.random.Generator

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return self.shape[0] * self.shape[1]

    def random_depth(self, beyond: float = 0.0) -> float:
        """Return a depth (µm) within the scan, or up to `beyond` times its range outside."""
        first, last = self.depth_um
        extra = beyond * (last - first)
        return float(self.rng.uniform(first - extra, last + extra))


@dataclass(frozen=True)
class Structure:
    """One thing in the specimen, at most one depth at each pixel.

    Attributes
    ----------
    origin : (int, int)
        Row and column of the patch's first pixel in the field; may be negative.
    density : (h, w) float32
        In transmitted light the part of the light that is taken away (0 clear, 1 black; a little
        below 0 where it is refracted to), in fluorescence what shines (negative parts do not).
    depth_um : (h, w) float32
        Depth of each pixel; finite everywhere.
    """

    origin: tuple[int, int]
    density: FloatImage
    depth_um: FloatImage


def _noise(shape: tuple[int, int], rng: np.random.Generator, sigma_px: float) -> FloatImage:
    """Return smooth noise of zero mean and unit deviation, with no detail finer than `sigma_px`."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth: FloatImage = ndimage.gaussian_filter(white, sigma_px, mode="wrap")
    # Analytic deviation of filtered white noise: dividing by the measured one would make a small
    # patch's texture depend on its size.
    return smooth * np.float32(2 * np.sqrt(np.pi) * sigma_px)


def _band_noise(
    shape: tuple[int, int], rng: np.random.Generator, fine_px: float, coarse_px: float
) -> FloatImage:
    """Return noise with detail between two sizes, roughly unit deviation."""
    white = rng.standard_normal(shape, dtype=np.float32)
    band: FloatImage = ndimage.gaussian_filter(white, fine_px, mode="wrap")
    band -= ndimage.gaussian_filter(white, coarse_px, mode="wrap")
    return band * np.float32(2 * np.sqrt(np.pi) * fine_px)


def _step(distance_px: FloatImage) -> FloatImage:
    """Return 1 where `distance_px` > 0, else 0, with an edge one pixel wide."""
    edge: FloatImage = np.clip(distance_px + 0.5, 0, 1).astype(np.float32)
    return edge


def _surface(field: Field) -> FloatImage:
    """Return a tilted, slightly curved surface that crosses most of the scan's depth."""
    height, width = field.shape
    rng = field.rng
    first, last = field.depth_um
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    along = np.cos(angle) * x + np.sin(angle) * y
    bend = (x - rng.uniform(-0.4, 0.4)) ** 2 + (y - rng.uniform(-0.4, 0.4)) ** 2
    shape = along + rng.uniform(-0.3, 0.3) * bend
    shape = shape + 0.05 * _noise(field.shape, rng, min(field.shape) / 10)
    # What the camera sees is to span the scan, not what lies in the margin.
    seen = shape[height // 8 : height - height // 8, width // 8 : width - width // 8]
    shape = (shape - seen.min()) / max(float(np.ptp(seen)), 1e-6)
    low, high = rng.uniform(0.0, 0.08), rng.uniform(0.92, 1.0)
    depth: FloatImage = (first + (low + (high - low) * shape) * (last - first)).astype(np.float32)
    return depth


def _spheres(field: Field) -> Iterator[Structure]:
    """Beads or droplets: a dark rim, a bright middle, each at a depth of its own."""
    rng = field.rng
    for _ in range(max(3, field.area_px // 5000)):
        radius = float(rng.uniform(5, 16))
        half = int(radius) + 6
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        distance = np.hypot(y, x)
        rim = np.exp(-(((distance - 0.9 * radius) / 1.5) ** 2))
        lens = np.exp(-((distance / (0.3 * radius)) ** 2))
        halo = np.exp(-(((distance - radius - 2.5) / 1.5) ** 2))
        body = 0.18 * _step(radius - distance)
        strength = rng.uniform(0.5, 1.0)
        density = strength * (0.55 * rim - 0.3 * lens - 0.12 * halo + body)
        yield Structure(
            (
                int(rng.integers(-half, field.shape[0] - half)),
                int(rng.integers(-half, field.shape[1] - half)),
            ),
            density.astype(np.float32),
            np.full(density.shape, field.random_depth(beyond=0.1), np.float32),
        )


def _tilted_sheet(field: Field) -> Iterator[Structure]:
    """Cells in a layer over the whole field, tilted and curved: focus wanders through it."""
    yield Structure((0, 0), _cell_layer(field.shape, field.rng, 0.8), _surface(field))


def _cell_layer(shape: tuple[int, int], rng: np.random.Generator, strength: float) -> FloatImage:
    """Return the density of a layer of cells: dark borders, grainy insides."""
    borders = np.exp(-((_band_noise(shape, rng, 4.0, 9.0) / 0.35) ** 2))
    grain = 0.10 * _band_noise(shape, rng, 1.0, 2.5) + 0.07 * _band_noise(shape, rng, 2.5, 6.0)
    density: FloatImage = strength * (0.10 + 0.22 * borders + grain)
    density = np.clip(density, -0.12, 0.8).astype(np.float32)
    return density


def _flat_layer(field: Field) -> Iterator[Structure]:
    """Cells in a layer over the whole field, nearly level: all of it comes into focus at once."""
    first, last = field.depth_um
    middle = field.random_depth(beyond=-0.2)
    bumps = 0.03 * (last - first) * _noise(field.shape, field.rng, min(field.shape) / 8)
    density = _cell_layer(field.shape, field.rng, field.rng.uniform(0.4, 1.0))
    yield Structure((0, 0), density, (middle + bumps).astype(np.float32))


def _two_layers(field: Field) -> Iterator[Structure]:
    """Two patchy layers of cells behind each other, one of lower contrast than the other."""
    first, last = field.depth_um
    rng = field.rng
    distance = rng.uniform(0.25, 0.6) * (last - first)
    upper = rng.uniform(first, last - distance)
    strengths = rng.permutation([0.8, 0.8 * rng.uniform(0.4, 1.0)])
    tilt = (_surface(field) - (first + last) / 2) * rng.uniform(0.0, 0.3)
    for depth, strength in zip((upper, upper + distance), strengths, strict=True):
        patches = np.clip(2.0 + 2.0 * _noise(field.shape, rng, 30.0), 0, 1)
        density = _cell_layer(field.shape, rng, float(strength)) * patches
        yield Structure((0, 0), density.astype(np.float32), (depth + tilt).astype(np.float32))


def _larva(field: Field) -> Iterator[Structure]:
    """Thick body, such as a larva's head: skin above and below, grains within, dark eyes."""
    rng = field.rng
    first, last = field.depth_um
    height, width = field.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    half_height, half_width = rng.uniform(0.28, 0.42) * height, rng.uniform(0.3, 0.5) * width
    middle_y = height * rng.uniform(0.4, 0.6)
    middle_x = width * rng.uniform(0.4, 0.6)
    wave = 0.04 * _noise(field.shape, rng, min(field.shape) / 9)
    reach = np.hypot((rows - middle_y) / half_height, (columns - middle_x) / half_width) + wave
    inside = _step((1 - reach) * min(half_height, half_width))
    dome = np.sqrt(np.clip(1 - reach**2, 0, 1))
    waist = rng.uniform(0.35, 0.65) * (last - first) + first
    thickness = rng.uniform(0.25, 0.5) * (last - first)
    rim = np.exp(-((((1 - reach) * min(half_height, half_width) - 2) / 2.0) ** 2))
    for side, strength in ((-1.0, 1.0), (1.0, rng.uniform(0.4, 0.8))):
        skin = 0.10 * _band_noise(field.shape, rng, 1.0, 3.0)
        skin += 0.08 * _band_noise(field.shape, rng, 3.0, 8.0)
        density = inside * strength * (0.08 + skin) + (0.2 * rim if side < 0 else 0.0)
        yield Structure(
            (0, 0), density.astype(np.float32), (waist + side * thickness * dome).astype(np.float32)
        )
    for side in (-1.0, 1.0):
        yield _eye(
            field,
            middle_y + side * 0.45 * half_height,
            middle_x + rng.uniform(0.1, 0.4) * half_width,
            waist + thickness * rng.uniform(-0.8, 0.2),
        )
    for _ in range(int(rng.poisson(field.area_px / 6000))):
        angle, away = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.7))
        yield _speck(
            rng,
            middle_y + away * half_height * np.sin(angle),
            middle_x + away * half_width * np.cos(angle),
            waist + thickness * rng.uniform(-0.8, 0.8),
        )


def _eye(field: Field, y: float, x: float, depth_um: float) -> Structure:
    """Draw a round dark inclusion with a grainy inside and a crisp rim."""
    radius = float(field.rng.uniform(12, 26))
    half = int(radius) + 8
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    distance = np.hypot(rows, columns)
    body = field.rng.uniform(0.45, 0.7) * _step(radius - distance)
    rim = 0.15 * np.exp(-(((distance - radius + 1.5) / 1.2) ** 2))
    grain = 0.12 * _step(radius - distance) * _band_noise(body.shape, field.rng, 1.0, 2.5)
    density = np.clip(body + rim + grain, 0, 0.88).astype(np.float32)
    return Structure(
        (int(y) - half, int(x) - half), density, np.full(density.shape, depth_um, np.float32)
    )


def _filaments(field: Field) -> Iterator[Structure]:
    """Winding fibres that rise and sink through the scan, crossing each other."""
    rng = field.rng
    for _ in range(max(4, field.area_px // 15000)):
        steps = int(rng.uniform(200, 800))
        turn = np.cumsum(rng.standard_normal(steps)) * 0.02
        direction = rng.uniform(0, 2 * np.pi) + turn
        y = rng.uniform(0, field.shape[0]) + np.cumsum(0.5 * np.sin(direction))
        x = rng.uniform(0, field.shape[1]) + np.cumsum(0.5 * np.cos(direction))
        rise = np.linspace(field.random_depth(0.1), field.random_depth(0.1), steps)
        yield _fibre(y, x, rise, width_px=rng.uniform(0.8, 2.0), density=rng.uniform(0.2, 0.55))


def _fibre(
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    depth_um: NDArray[np.float64],
    *,
    width_px: float,
    density: float,
) -> Structure:
    """Draw a chain of points half a pixel apart as a fibre of Gaussian profile."""
    margin = int(4 * width_px) + 2
    top, left = int(y.min()) - margin, int(x.min()) - margin
    shape = (int(y.max()) - top + margin + 1, int(x.max()) - left + margin + 1)
    at = (np.rint(y).astype(int) - top, np.rint(x).astype(int) - left)
    weight = np.zeros(shape, np.float32)
    np.add.at(weight, at, np.float32(0.5))
    deep = np.zeros(shape, np.float32)
    np.add.at(deep, at, (0.5 * depth_um).astype(np.float32))
    weight = ndimage.gaussian_filter(weight, width_px, mode="constant")
    deep = ndimage.gaussian_filter(deep, width_px, mode="constant")
    covered = weight > 1e-4
    depth = np.full(shape, depth_um[0], np.float32)
    depth[covered] = deep[covered] / weight[covered]
    # A straight run of points every half pixel has this height after the filter.
    profile = np.minimum(weight * np.float32(np.sqrt(2 * np.pi) * width_px), 1.5)
    return Structure((top, left), (density * profile).astype(np.float32), depth)


def _organoids(field: Field) -> Iterator[Structure]:
    """Budding organoids and hollow cysts at scattered depths in a clear gel, with debris."""
    for y, x, radius in _scatter(field, spacing=2.1, per_px=1 / 15000, radius_px=(14, 34)):
        yield _organoid(field, y, x, radius, field.random_depth(beyond=0.15))
    yield from _debris(field)


def _organoid_layer(field: Field) -> Iterator[Structure]:
    """Organoids among small cells on a tilted, curved layer: focus wanders through the field."""
    surface = _surface(field)
    jitter = 0.02 * (field.depth_um[1] - field.depth_um[0])

    def depth_at(y: float, x: float) -> float:
        row = int(np.clip(y, 0, field.shape[0] - 1))
        column = int(np.clip(x, 0, field.shape[1] - 1))
        return float(surface[row, column] + field.rng.normal(0, jitter))

    for y, x, radius in _scatter(field, spacing=1.9, per_px=1 / 9000, radius_px=(14, 36)):
        yield _organoid(field, y, x, radius, depth_at(y, x))
    for y, x, radius in _scatter(field, spacing=2.0, per_px=1 / 2000, radius_px=(4, 7)):
        yield _organoid(field, y, x, radius, depth_at(y, x))
    yield from _debris(field)


def _empty(field: Field) -> Iterator[Structure]:
    """Nothing at all: a scan of clear medium, where nothing may be called in focus."""
    yield from ()


def _speck(rng: np.random.Generator, y: float, x: float, depth_um: float) -> Structure:
    """Draw a small dark grain."""
    radius = float(rng.uniform(1.0, 3.0))
    half = int(3 * radius) + 2
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    blob = np.exp(-(rows**2 + columns**2) / (2 * (radius / 1.5) ** 2))
    density = (rng.uniform(0.15, 0.5) * blob).astype(np.float32)
    return Structure(
        (int(y) - half, int(x) - half), density, np.full(density.shape, depth_um, np.float32)
    )


def _scatter(
    field: Field, *, spacing: float, per_px: float, radius_px: tuple[float, float]
) -> Iterator[tuple[float, float, float]]:
    """Yield places (y, x, radius) that keep `spacing` radii apart, most of the time."""
    rng = field.rng
    placed: list[tuple[float, float, float]] = []
    for _ in range(max(2, int(rng.poisson(field.area_px * per_px)))):
        radius = float(rng.uniform(*radius_px))
        for _attempt in range(8):
            y = float(rng.uniform(0, field.shape[0]))
            x = float(rng.uniform(0, field.shape[1]))
            # After the last attempt it stays where it is: real ones overlap, too.
            if all(
                np.hypot(y - other_y, x - other_x) > spacing / 2 * (radius + other)
                for other_y, other_x, other in placed
            ):
                break
        placed.append((y, x, radius))
        yield y, x, radius


def _organoid(field: Field, y: float, x: float, radius: float, depth_um: float) -> Structure:
    """Draw one organoid: a lobed body, dark rims with a bright fringe, grainy inside."""
    rng = field.rng
    half = int(2.1 * radius) + 8
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    shape: tuple[int, int] = rows.shape
    # Bend the plane a little, so that no outline is a circle.
    rows = rows + 0.07 * radius * _noise(shape, rng, max(0.35 * radius, 1.5))
    columns = columns + 0.07 * radius * _noise(shape, rng, max(0.35 * radius, 1.5))
    cyst = rng.random() < 0.3
    darkness = rng.uniform(0.15, 0.3) if cyst else rng.uniform(0.45, 0.8)
    rim_width = float(np.clip(radius / 14, 1.0, 2.2))

    clear = np.ones(shape, np.float32)
    inside = np.zeros(shape, np.float32)
    lines = np.zeros(shape, np.float32)
    relief = np.zeros(shape, np.float32)
    for lobe_y, lobe_x, lobe_radius in _lobes(rng, radius, cyst=cyst):
        distance = np.hypot(rows - lobe_y, columns - lobe_x)
        reach = distance / lobe_radius
        thickness = np.sqrt(np.clip(1 - reach**2, 0, 1))
        within = _step(lobe_radius - distance)
        main = lobe_y == 0 and lobe_x == 0
        dark = darkness * (1.0 if main else rng.uniform(0.4, 0.85))
        lumen = 0.6 * np.exp(-((reach / 0.55) ** 2)) if cyst or rng.random() < 0.35 else 0.0
        clear *= 1 - dark * within * (0.35 + 0.65 * thickness) * (1 - lumen)
        # A new lobe covers the lines of those below it.
        lines *= 1 - 0.6 * within
        rim = np.exp(-(((distance - lobe_radius + 1.2 * rim_width) / rim_width) ** 2))
        lines += rng.uniform(0.22, 0.4) * rim
        fringe = (distance - lobe_radius - 1.5 * rim_width) / (1.2 * rim_width)
        lines -= 0.09 * np.exp(-(fringe**2)) * (1 - inside)
        lift = 0.12 * lobe_radius * field.pixel_size_um * float(rng.uniform(-1, 1))
        relief = np.where(within > 0.5, np.float32(lift), relief)
        inside = np.maximum(inside, within)
    grain = 0.09 * _band_noise(shape, rng, 1.0, 2.5) + 0.08 * _band_noise(shape, rng, 2.2, 6.0)
    density = 1 - clear + lines + inside * (0.6 + darkness) * grain
    relief = ndimage.gaussian_filter(relief, 2.0)
    tilt = rng.normal(0, 0.06, 2) * field.pixel_size_um
    depth = depth_um + relief + tilt[0] * rows + tilt[1] * columns
    return Structure(
        (int(y) - half, int(x) - half),
        np.clip(density, -0.15, 0.88).astype(np.float32),
        depth.astype(np.float32),
    )


def _lobes(
    rng: np.random.Generator, radius: float, *, cyst: bool
) -> Iterator[tuple[float, float, float]]:
    """Yield the circles (y, x, radius) that make up an organoid, its body first."""
    yield 0.0, 0.0, radius * (0.95 if cyst else 0.75)
    buds = int(rng.integers(0, 3)) if cyst else int(rng.integers(2, 9))
    if radius < 10:
        buds = min(buds, 1)
    for _ in range(buds):
        angle = rng.uniform(0, 2 * np.pi)
        away = radius * rng.uniform(0.6, 1.15)
        yield away * np.sin(angle), away * np.cos(angle), radius * rng.uniform(0.22, 0.45)


def _debris(field: Field) -> Iterator[Structure]:
    """Specks within the scan, and faint large things so far away that they are only shadows."""
    rng = field.rng
    for _ in range(int(rng.poisson(field.area_px / 9000))):
        radius = float(rng.uniform(1.0, 3.0))
        half = int(3 * radius) + 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        blob = np.exp(-(np.hypot(y, x * rng.uniform(0.6, 1.0)) ** 2) / (2 * (radius / 1.5) ** 2))
        yield Structure(
            (int(rng.integers(0, field.shape[0])), int(rng.integers(0, field.shape[1]))),
            (rng.uniform(0.15, 0.5) * blob).astype(np.float32),
            np.full(blob.shape, field.random_depth(beyond=0.3), np.float32),
        )
    first, last = field.depth_um
    for _ in range(int(rng.poisson(field.area_px / 60000))):
        radius = float(rng.uniform(20, 40))
        half = int(2.5 * radius)
        y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
        blob = np.exp(-(y**2 + x**2) / (2 * (0.7 * radius) ** 2))
        beyond = rng.uniform(0.4, 0.8) * (last - first)
        depth = last + beyond if rng.random() < 0.5 else first - beyond
        yield Structure(
            (
                int(rng.integers(-half, field.shape[0])),
                int(rng.integers(-half, field.shape[1])),
            ),
            (rng.uniform(0.03, 0.12) * blob).astype(np.float32),
            np.full(blob.shape, depth, np.float32),
        )


SPECIMENS: Mapping[str, Callable[[Field], Iterator[Structure]]] = MappingProxyType(
    {
        "organoids": _organoids,
        "organoid_layer": _organoid_layer,
        "spheres": _spheres,
        "tilted_sheet": _tilted_sheet,
        "filaments": _filaments,
        "flat_layer": _flat_layer,
        "two_layers": _two_layers,
        "larva": _larva,
        "empty": _empty,
    }
)
"""Kinds of specimen by name: each fills a `Field` with structures."""
