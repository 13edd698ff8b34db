"""How the images of a run lie in its stores."""

from __future__ import annotations

from deepfocus_live.frames import ImageSpec, Placement, RunSpec
from deepfocus_live.volume._layout import ImageLayout

__all__ = [
    "CORRECTED",
    "LABELS",
    "PROBABILITY_SCALE",
    "STORES",
    "SliceIndex",
    "layouts_of",
    "slice_at",
]

STORES = ("volume.ome.zarr", "probability.ome.zarr")
LABELS = ("in_focus", "weak_label", "undecided")
CORRECTED = "corrected"
"""The label of masks that a person corrected: no writer of a run makes or changes it."""
PROBABILITY_SCALE = 4
"""Image pixels per pixel of the network's probability."""
SliceIndex = tuple[int, int | slice, int]


def slice_at(placement: Placement, samples: int) -> SliceIndex:
    """Return where in its image's array a slice lies: three channels of it if it has colours."""
    _, t, c, z = placement
    return t, c if samples == 1 else slice(c * samples, (c + 1) * samples), z


def layouts_of(
    spec: RunSpec, image: ImageSpec, *, codec: str, pixels_stored: bool = True
) -> tuple[ImageLayout, ImageLayout]:
    """Return how one image of a run lies in each of `STORES`."""
    layout = ImageLayout(
        name=f"{spec.name} {image.name}".strip(),
        shape=(image.size_t, len(spec.channels), image.size_z, spec.height_px, spec.width_px),
        dtype=spec.dtype,
        channels=tuple(channel.name for channel in spec.channels),
        pixel_size_um=spec.pixel_size_um,
        z_step_um=spec.z_step_um,
        labels=LABELS,
        codec=codec,
        window=None if spec.bits_per_sample is None else (0, 2**spec.bits_per_sample - 1),
        samples_per_pixel=spec.samples_per_pixel,
        corner_xy_um=_corner(spec, image),
        time_step_s=spec.time_step_s,
        pixels_stored=pixels_stored,
    )
    return layout, _probability_layout(layout)


def _corner(spec: RunSpec, image: ImageSpec) -> tuple[float, float] | None:
    """Return where the first pixel of an image lay: the stage's place is its centre."""
    if image.x_um is None or image.y_um is None or spec.pixel_size_um is None:
        return None
    pixel = spec.pixel_size_um.um
    return (
        image.x_um - pixel * (spec.width_px - 1) / 2,
        image.y_um - pixel * (spec.height_px - 1) / 2,
    )


def _probability_layout(image: ImageLayout) -> ImageLayout:
    """Return the layout of the network's probability for `image`: one level, coarser, uint8."""
    t, c, z, y, x = image.shape
    return ImageLayout(
        name=f"{image.name} probability",
        shape=(t, c, z, -(-y // PROBABILITY_SCALE), -(-x // PROBABILITY_SCALE)),
        dtype="uint8",
        channels=image.channels,
        pixel_size_um=image.pixel_size_um,
        z_step_um=image.z_step_um,
        codec="zstd",
        pixel_scale=PROBABILITY_SCALE,
        levels=1,
        corner_xy_um=image.corner_xy_um,
        time_step_s=image.time_step_s,
    )
