"""A store's images in OME-XML: programs that know bioformats2raw look there for names and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from deepfocus_live.volume._layout import ImageLayout, shown_channels
from deepfocus_live.volume._store import write_atomically

__all__ = ["ome_xml", "write_ome_xml"]

_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_FILE = Path("OME") / "METADATA.ome.xml"


def write_ome_xml(store: Path, images: Sequence[ImageLayout], *, sync: bool) -> None:
    """Write (again) `OME/METADATA.ome.xml` of a store in bioformats2raw layout."""
    write_atomically(store / _FILE, ome_xml(images), sync=sync)


def ome_xml(images: Sequence[ImageLayout]) -> bytes:
    """Return the OME-XML of images, in the order in which the store lists them.

    Of the schema 2016-06, without pixels ("MetadataOnly").
    """
    root = ElementTree.Element("OME", {"xmlns": _NAMESPACE})
    for number, image in enumerate(images):
        entry = ElementTree.SubElement(root, "Image", {"ID": f"Image:{number}", "Name": image.name})
        pixels = ElementTree.SubElement(entry, "Pixels", dict(_pixels(number, image)))
        for channel, (name, _) in enumerate(shown_channels(image)):
            given = {"ID": f"Channel:{number}:{channel}", "Name": name, "SamplesPerPixel": "1"}
            ElementTree.SubElement(pixels, "Channel", given)
        ElementTree.SubElement(pixels, "MetadataOnly")
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _pixels(number: int, image: ImageLayout) -> Iterator[tuple[str, str]]:
    t, _, z, y, x = image.shape
    yield "ID", f"Pixels:{number}"
    yield "DimensionOrder", "XYZCT"  # the last axis of the store is the first here
    yield "Type", image.dtype
    sizes = {"X": x, "Y": y, "Z": z, "C": len(list(shown_channels(image))), "T": t}
    yield from ((f"Size{axis}", str(size)) for axis, size in sizes.items())
    if image.pixel_size_um is not None:
        yield "PhysicalSizeX", str(image.pixel_size_um.um)
        yield "PhysicalSizeY", str(image.pixel_size_um.um)
    if image.z_step_um is not None:
        yield "PhysicalSizeZ", str(abs(image.z_step_um.um))
    if image.time_step_s is not None:
        yield "TimeIncrement", str(image.time_step_s)
