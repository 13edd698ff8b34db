"""A run directory as a source: the journal says which slices exist."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from deepfocus_live.config import ProfileConfig
from deepfocus_live.errors import InputError
from deepfocus_live.export._from_stacks import drawn_labels
from deepfocus_live.export._source import Place, PlaneFacts, Source, SourceImage, SourceLabel
from deepfocus_live.focus import DEFAULT_PRESET, Conditions
from deepfocus_live.frames import ImageSpec, luminance
from deepfocus_live.stacks import MaskStack
from deepfocus_live.volume import Run, RunImage, open_run

__all__ = ["source_of_run"]

_FREE_FIELDS = ("specimen", "staining", "objective", "operator")
"""What a person may have written into the sequence's metadata."""


_COLORS = ("red", "green", "blue")


@dataclass
class _Written:
    """What the journal says of one image."""

    planes: dict[Place, PlaneFacts] = field(default_factory=dict)
    masked: set[Place] = field(default_factory=set)
    labelled: set[tuple[int, int]] = field(default_factory=set)


def source_of_run(path: Path) -> Source:
    """Return a run as it is now; what comes later is not part of it.

    Parameters
    ----------
    path : Path
        Run directory.

    Raises
    ------
    InputError
        As `open_run` does.
    """
    run = open_run(path)
    journal = run.journal
    written, specs = _read(journal, list(run.spec.images), len(run.images))
    conditions, preset, notes = _imaging(run)
    corrected = drawn_labels(path)
    tiled = any(spec.tile for spec in specs)
    images = []
    for number, image in enumerate(run.images):
        spec = specs[number]
        tag = f"p{spec.position}" + (f"g{spec.tile}" if tiled else "")
        if spec.well is not None:
            tag = f"{spec.well.replace('/', '')}f{spec.field}"
        own = {(key[1], key[2]): mask for key, mask in corrected.items() if key[0] == number}
        images.append(
            SourceImage(
                name=f"{run.spec.name} {spec.name}".strip(),
                tag=tag if len(specs) > 1 else "",
                shape=_shape(image),
                dtype=np.dtype(image.image.dtype),
                channels=tuple(channel.name for channel in run.spec.channels),
                read=_reader(image),
                there=frozenset(written[number].planes if run.pixels_stored else ()),
                pixel_size_um=run.spec.pixel_size_um,
                z_step_um=run.spec.z_step_um,
                planes=written[number].planes,
                labels={**_labels(image, written[number]), **_drawn(own)},
                conditions=conditions,
                preset=preset,
                pixels_stored=run.pixels_stored,
            )
        )
    if run.spec.samples_per_pixel > 1:
        images = [_in_colors(image) for image in images]
    if run.state != "completed":
        notes.append(
            "the run is still open: what it holds now is exported"
            if run.state == "open"
            else f"the run was not completed: {run.state}"
        )
    name = path.resolve().name
    return Source(name, path, tuple(images), _about(run, name), tuple(notes))


def _read(
    journal: list[dict[str, Any]], specs: list[ImageSpec], count: int
) -> tuple[list[_Written], list[ImageSpec]]:
    """Return what the journal says of the first `count` images, and how each was planned."""
    written = [_Written() for _ in range(count)]
    places: dict[int, tuple[int, Place]] = {}
    for line in journal:
        # A damaged line says nothing, and what it was about counts as missing.
        with contextlib.suppress(LookupError, TypeError, ValueError):
            if line["kind"] == "image":
                specs.append(ImageSpec.model_validate(line["spec"]))
            elif line["kind"] == "frame":
                place = Place(int(line["t"]), int(line["c"]), int(line["z"]))
                facts = PlaneFacts(**{key: line.get(key) for key in PlaneFacts._fields})
                written[line["image"]].planes[place] = facts
                places[line["sequence_number"]] = line["image"], place
            elif line["kind"] == "mask":
                number, place = places[line["sequence_number"]]
                written[number].masked.add(place)
            elif line["kind"] == "label":
                written[line["image"]].labelled.add((line["t"], line["c"]))
    return written, specs


def _shape(image: RunImage) -> tuple[int, int, int, int, int]:
    t, c, z, y, x = image.image.shape
    return t, c // image.samples_per_pixel, z, y, x


def _reader(image: RunImage) -> Callable[[Place], NDArray[Any]]:
    return lambda place: image.read_slice(*place)


def _in_colors(image: SourceImage) -> SourceImage:
    """Return an image of a colour camera with red, green and blue as channels of their own."""
    t, c, z, y, x = image.shape
    names = image.channel_names

    def whole(place: Place) -> Place:
        return place._replace(c=place.c // len(_COLORS))

    def parts(places: Iterable[Place]) -> Iterator[Place]:
        for place in places:
            for part in range(len(_COLORS)):
                yield place._replace(c=place.c * len(_COLORS) + part)

    def of_all(label: SourceLabel) -> SourceLabel:
        return SourceLabel(lambda place: label.read(whole(place)), frozenset(parts(label.there)))

    return replace(
        image,
        shape=(t, c * len(_COLORS), z, y, x),
        channels=tuple(f"{name} {color}" for name in names for color in _COLORS),
        read=lambda place: image.read(whole(place))[place.c % len(_COLORS)],
        judged=lambda place: luminance(image.read(whole(place))),
        there=frozenset(parts(image.there)),
        planes={place: image.planes[whole(place)] for place in parts(image.planes)},
        labels={name: of_all(label) for name, label in image.labels.items()},
    )


def _labels(image: RunImage, written: _Written) -> dict[str, SourceLabel]:
    ruled = frozenset(place for place in written.planes if place[:2] in written.labelled)
    there = {
        "in_focus": frozenset(written.masked),
        "weak_label": ruled,
        "undecided": ruled,
    }
    return {name: _label(image, name, said) for name, said in there.items() if said}


def _label(image: RunImage, name: str, there: frozenset[Place]) -> SourceLabel:
    return SourceLabel(lambda place: np.asarray(image.labels[name][place], np.uint8), there)


def _drawn(masks: Mapping[tuple[int, int], MaskStack]) -> dict[str, SourceLabel]:
    there = frozenset(
        Place(tc[0], tc[1], z)
        for tc, mask in masks.items()
        for z in range(len(mask))
        if mask.said(z)
    )

    def read(place: Place) -> NDArray[np.uint8]:
        return masks[place[:2]][place.z]

    return {"corrected": SourceLabel(read, there)} if there else {}


def _imaging(run: Run) -> tuple[Conditions, str, list[str]]:
    """Return how a run was imaged, as its profile and calibration say, and its preset."""
    spec = run.spec
    lengths: dict[str, Any] = {
        "pixel_size_um": spec.pixel_size_um.um if spec.pixel_size_um else None,
        "z_step_um": spec.z_step_um.um if spec.z_step_um else None,
    }
    said = {**(run.record.get("profile") or {})}
    said.pop("name", None)
    try:
        profile = ProfileConfig.model_validate(said)
    except ValidationError:
        # Of another version: the images are as good as they were.
        return Conditions(**lengths), DEFAULT_PRESET, []
    notes = []
    try:
        known = profile.imaging()
    except InputError as error:
        notes.append(f"labels do without the flat field: {error}")
        known = profile.model_copy(update={"flat_field": None}).imaging()
    conditions = Conditions(**known, **lengths)
    flat = conditions.flat_field
    if flat is not None and flat.shape != (spec.height_px, spec.width_px):
        notes.append("labels do without the flat field: it has another size than the slices")
        conditions = replace(conditions, flat_field=None)
    return conditions, profile.label_preset, notes


def _about(run: Run, name: str) -> tuple[str, ...]:
    lines = [f"from the run {name} ({run.state})"]
    if run.record.get("model"):
        lines.append(f"model {run.record['model']}")
    metadata = (run.spec.sequence or {}).get("metadata") or {}
    for key, value in metadata.items():
        if str(key).lower() in _FREE_FIELDS and isinstance(value, str | int | float):
            lines.append(f"{str(key).lower()}: {value}")
    return tuple(lines)
