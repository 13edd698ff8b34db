"""What can be made of an image: the kinds, and the planes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.export._from_above import FromAbove
from deepfocus_live.export._missing import spell_places
from deepfocus_live.export._source import Place, PlaneFacts, SourceImage, SourceLabel
from deepfocus_live.frames import Calibration

__all__ = ["EVERYTHING", "KINDS", "Product", "products_of"]

KINDS = ("images", "masks", "weak_label", "all-in-focus", "depth", "in-focus-volume")
"""What can be exported, by the names that the command line takes."""
EVERYTHING = "everything"
"""All of `KINDS` that there are."""
_OF_PIXELS = ("images", "all-in-focus", "depth", "in-focus-volume")

Range = tuple[float, float]
_NOT_SECTIONED = "not optical sectioning: intensities still hold out-of-focus light"
_MASKS = ("corrected", "in_focus", "weak_label")
"""By which an in-focus volume is cut, best first."""
_LABELS = {
    "in_focus": ("masks", "in-focus masks of the network: in focus or not"),
    "corrected": ("corrected", "masks corrected by hand: 0 not in focus, 1 in focus, 2 undecided"),
    "weak_label": ("weak_label", "weak labels: in focus by rule, or not"),
    "undecided": ("undecided", "where the rule of the weak labels will not say"),
}
_SAMPLED = 5


@dataclass(frozen=True)
class Product:
    """One kind of one image, plane by plane.

    Attributes
    ----------
    kind : str
        For file names.
    shape : (int, int, int, int, int)
        (t, c, z, y, x).
    read : callable
        Place to (Y, X) of `dtype`; called once for each, in order.
    ranges : tuple of (float, float)
        Lowest and highest value worth showing, one pair per channel.
    label : str or None
        Name of the label that it is.
    notes : tuple of str
        What the person who exports should know.
    """

    kind: str
    image: SourceImage
    shape: tuple[int, int, int, int, int]
    dtype: np.dtype[Any]
    read: Callable[[Place], NDArray[Any]]
    ranges: tuple[Range, ...]
    description: str
    label: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def places(self) -> Iterator[Place]:
        """Places of its planes, in order of t, c and z."""
        return (Place(*index) for index in np.ndindex(*self.shape[:3]))

    @property
    def is_seen_from_above(self) -> bool:
        """Whether one plane stands for a stack."""
        return self.shape[2] == 1 < self.image.shape[2]

    @property
    def z_step_um(self) -> Calibration | None:
        """Between its planes."""
        return None if self.is_seen_from_above else self.image.z_step_um

    @property
    def planes(self) -> Mapping[Place, PlaneFacts]:
        """What is known of its planes one by one."""
        return {} if self.is_seen_from_above else self.image.planes

    @property
    def nbytes(self) -> int:
        """Of all its pixels."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass
class Found:
    """What of the wanted kinds an image has; for the others, why not."""

    products: list[Product] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    steps: int = 0
    """How often `step` will be called."""


def products_of(
    image: SourceImage, what: str, about: Iterable[str], step: Callable[[], None]
) -> Found:
    """Return what is asked for of an image.

    Parameters
    ----------
    what : str
        One of `KINDS`, or `EVERYTHING`.
    about : iterable of str
        Lines for every description.
    step : callable
        Called for each slice that is worked on.
    """
    wanted: tuple[str, ...] = KINDS if what == EVERYTHING else (what,)
    maker = _Maker(image, tuple(about), step)
    if not image.pixels_stored and set(wanted) & set(_OF_PIXELS):
        maker.found.lacking.append(
            f"{image.name} has no pixels: they were not stored (storage.mode: masks-only)"
        )
        wanted = tuple(kind for kind in wanted if kind not in _OF_PIXELS)
    if "images" in wanted:
        maker.add_images()
    if "masks" in wanted:
        maker.add_labels(("in_focus", "corrected"), "masks: run `deepfocus-live segment`")
    if "weak_label" in wanted:
        maker.add_labels(("weak_label", "undecided"), "weak labels: run `deepfocus-live label`")
    if {"all-in-focus", "depth"} & set(wanted):
        maker.add_from_above("all-in-focus" in wanted, "depth" in wanted)
    if "in-focus-volume" in wanted:
        maker.add_in_focus_volume()
    return maker.found


class _Maker:
    def __init__(
        self, image: SourceImage, about: tuple[str, ...], step: Callable[[], None]
    ) -> None:
        self.found = Found()
        self._image = image
        self._about = about
        self._step = step
        self._shown: tuple[Range, ...] | None = None

    def add_images(self) -> None:
        self._add(
            "images",
            "images",
            self._image.dtype,
            self._read_image,
            self._ranges,
            notes=self._missing,
        )

    def add_labels(self, names: tuple[str, ...], lacking: str) -> None:
        image = self._image
        there = [name for name in names if name in image.labels]
        if not there:
            self.found.lacking.append(f"{image.name} has no {lacking}")
        for name in there:
            kind, title = _LABELS[name]
            label = image.labels[name]
            without = sorted(set(image.places) - label.there)
            known = f"slices without {kind}, written as 0: {spell_places(without)}"
            top = 2.0 if name == "corrected" else 1.0
            self._add(
                kind,
                title,
                np.dtype(np.uint8),
                self._label_reader(label),
                ((0.0, top),) * image.shape[1],
                label=name,
                # That a person has not corrected every slice goes without saying.
                notes=[known] if without and name != "corrected" else [],
            )

    def add_from_above(self, image_too: bool, depth_too: bool) -> None:
        image = self._image
        if image.shape[2] < 2:
            self.found.lacking.append(
                f"{image.name} is one slice deep: there is nothing to see from above"
            )
            return
        above = FromAbove(image, keep_depth=image_too and depth_too, step=self._step)
        empty = [
            f"t{t} c{c}"
            for t, c in np.ndindex(*image.shape[:2])
            if not any(Place(t, c, z) in image.there for z in range(image.shape[2]))
        ]
        notes = [f"stacks without any slice: {', '.join(empty)}"] if empty else []
        flat = (*image.shape[:2], 1, *image.shape[3:])
        shape = (flat[0], flat[1], 1, flat[3], flat[4])
        slices = len(image.there)
        if image_too:
            self._add(
                "all_in_focus",
                "all-in-focus images: at each place the sharpest slices",
                image.dtype,
                lambda place: above.image(place.t, place.c),
                self._ranges,
                notes=notes,
                shape=shape,
                steps=2 * slices,
            )
        if depth_too:
            unit = above.depth_unit
            self._add(
                "depth_um" if unit.startswith("µm") else "depth_slices",
                f"depth of the best focus in {unit}; NaN where nothing is in focus",
                np.dtype(np.float32),
                lambda place: above.depth(place.t, place.c),
                (above.depth_range,) * image.shape[1],
                notes=notes,
                said=f"depth is in {unit}",
                shape=shape,
                steps=0 if image_too else slices,
            )

    def add_in_focus_volume(self) -> None:
        image = self._image
        masks = {place: self._mask_of(place) for place in image.there}
        used = [name for name in _MASKS if name in masks.values()]
        if not used:
            self.found.lacking.append(
                f"{image.name} has neither masks nor weak labels: run `deepfocus-live segment` "
                "or `label`"
            )
            return
        counts = ", ".join(
            f"{name} of {sum(found == name for found in masks.values())} slices" for name in used
        )
        without = sorted(place for place, name in masks.items() if name is None)
        notes = self._missing
        if without:
            notes.append(f"no mask for slices, written as 0: {spell_places(without)}")

        def read(place: Place) -> NDArray[Any]:
            pixels = self._read_image(place)
            name = masks.get(place)
            if name is None:
                return np.zeros_like(pixels)
            return np.where(image.labels[name].read(place) == 1, pixels, pixels.dtype.type(0))

        ranges = tuple((0.0, high) for _, high in self._ranges)
        title = f"images where they are in focus (mask: {counts}), else 0; {_NOT_SECTIONED}"
        self._add("in_focus_volume", title, image.dtype, read, ranges, notes=notes)

    @property
    def _missing(self) -> list[str]:
        missing = self._image.missing
        return [f"missing slices, written as 0: {spell_places(missing)}"] if missing else []

    def _mask_of(self, place: Place) -> str | None:
        labels = self._image.labels
        return next((n for n in _MASKS if n in labels and place in labels[n].there), None)

    def _add(
        self,
        kind: str,
        title: str,
        dtype: np.dtype[Any],
        read: Callable[[Place], NDArray[Any]],
        ranges: tuple[Range, ...],
        *,
        label: str | None = None,
        notes: Iterable[str] = (),
        said: str = "",
        shape: tuple[int, int, int, int, int] | None = None,
        steps: int | None = None,
    ) -> None:
        image, notes = self._image, tuple(notes)
        lines = [f"{image.name}: {title}", *_calibration(image, seen_from_above=bool(shape))]
        self.found.products.append(
            Product(
                kind=kind,
                image=image,
                shape=shape or image.shape,
                dtype=dtype,
                # What is seen from above counts its own steps: a stack's worth for each plane.
                read=read if shape else lambda place: self._counted(read, place),
                ranges=ranges,
                description="\n".join([*lines, *self._about, *notes]),
                label=label,
                notes=tuple(f"{image.name}: {note}" for note in (*notes, said) if note),
            )
        )
        self.found.steps += int(np.prod(image.shape[:3])) if steps is None else steps

    def _counted(self, read: Callable[[Place], NDArray[Any]], place: Place) -> NDArray[Any]:
        plane = read(place)
        self._step()
        return plane

    def _read_image(self, place: Place) -> NDArray[Any]:
        if place in self._image.there:
            return self._image.read(place)
        return np.zeros(self._image.shape[3:], self._image.dtype)

    def _label_reader(self, label: SourceLabel) -> Callable[[Place], NDArray[Any]]:
        blank = np.zeros(self._image.shape[3:], np.uint8)
        return lambda place: label.read(place) if place in label.there else blank

    @property
    def _ranges(self) -> tuple[Range, ...]:
        if self._shown is None:
            self._shown = tuple(_range(self._image, c) for c in range(self._image.shape[1]))
        return self._shown


def _range(image: SourceImage, channel: int) -> Range:
    """Return lowest and highest count of a few slices of a channel."""
    places = sorted(place for place in image.there if place.c == channel)
    if not places:
        return 0.0, 1.0
    some = {places[i] for i in np.linspace(0, len(places) - 1, _SAMPLED).round().astype(int)}
    planes = [image.read(place) for place in some]
    low = float(min(np.nanmin(plane) for plane in planes))
    high = float(max(np.nanmax(plane) for plane in planes))
    return low, high if high > low else low + 1


def _calibration(image: SourceImage, *, seen_from_above: bool) -> Iterator[str]:
    """Yield a line for pixel size and z-step, each with who stated it."""
    lengths = {"pixel size": image.pixel_size_um}
    if not seen_from_above:
        lengths["z-step"] = image.z_step_um
    for name, length in lengths.items():
        if length is None:
            yield f"{name}: not known"
        else:
            unit = "; the unit is assumed" if length.source == "assumed" else ""
            yield f"{name}: {length.um:g} µm (source: {length.source}{unit})"
