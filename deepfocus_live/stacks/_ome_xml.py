"""OME-XML of one file: which of its pages is which slice, and how large things are.

Only what a stack needs is read. Planes that the XML places in other files are
left out, so a set of files can be read one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

from deepfocus_live.frames import Calibration
from deepfocus_live.stacks._calibration import length_um

__all__ = ["OmeImage", "PlaneKey", "parse_ome_xml"]

PlaneKey = tuple[int, int, int]
"""(t, c, z) of a plane."""


@dataclass
class OmeImage:
    """One Image of the XML, as far as it lies in this file.

    Attributes
    ----------
    sizes : dict
        Planes along T, C and Z, as stated; may be more than this file has.
    pages : dict
        Page in this file of each plane.
    z_um : dict
        Position of each plane in µm, where stated.
    slices_called : str
        What the file calls what is read as slices; "" where it calls them so too.
    """

    sizes: dict[str, int]
    order: str
    pixel_size: tuple[Calibration | None, Calibration | None]
    z_step: Calibration | None
    channel_names: list[str | None]
    pages: dict[PlaneKey, int] = field(default_factory=dict)
    z_um: dict[PlaneKey, Calibration] = field(default_factory=dict)
    slices_called: str = ""

    def find_slices(self) -> None:
        """Take times or nameless channels for slices, where there is no z.

        Writers that were told no axes call a stack a time series or channels.
        """
        if self.sizes["Z"] > 1:
            return
        if self.sizes["T"] > 1:
            self._swap("T", lambda t, c, z: (z, c, t), "time points")
        elif self.sizes["C"] > 1 and not any(self.channel_names):
            self._swap("C", lambda t, c, z: (t, z, c), "channels")

    def _swap(self, axis: str, key: Callable[[int, int, int], PlaneKey], called: str) -> None:
        self.sizes[axis], self.sizes["Z"] = self.sizes["Z"], self.sizes[axis]
        self.pages = {key(*at): page for at, page in self.pages.items()}
        self.z_um = {key(*at): z_um for at, z_um in self.z_um.items()}
        self.slices_called = called


def parse_ome_xml(text: str, file_name: str) -> list[OmeImage]:
    """Return the images of an OME-XML text.

    Parameters
    ----------
    text : str
        Of the first page's description.
    file_name : str
        Name of the file that holds it, to tell its planes from other files'.

    Raises
    ------
    ValueError
        If it is no OME-XML that makes sense.
    """
    try:
        root = ElementTree.fromstring(text.strip("\0 \n\r\t").encode("utf-8"))
        return _images(root, file_name)
    except (ElementTree.ParseError, KeyError, TypeError) as error:
        raise ValueError(f"its OME-XML is malformed ({error})") from error


def _images(root: ElementTree.Element, file_name: str) -> list[OmeImage]:
    here = _FileNames(root, file_name)
    images = []
    next_page = 0
    for element in _children(root, "Image"):
        for pixels in _children(element, "Pixels"):
            image = _image(pixels)
            for data in _children(pixels, "TiffData"):
                next_page = _place(image, data, next_page, here)
            images.append(image)
    return images


def _image(pixels: ElementTree.Element) -> OmeImage:
    channels = _children(pixels, "Channel")
    names = [channel.get("Name") for channel in channels]
    # Colour samples are counted in SizeC, but lie in one page.
    samples = sum(int(channel.get("SamplesPerPixel", "1")) - 1 for channel in channels)
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "TZ"}
    sizes["C"] = max(1, int(pixels.attrib["SizeC"]) - samples)
    size_x, size_y, size_z = (
        length_um(_number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit"))
        for axis in "XYZ"
    )
    image = OmeImage(
        sizes=sizes,
        order=pixels.attrib["DimensionOrder"][2:],
        pixel_size=(size_x, size_y),
        z_step=size_z,
        channel_names=names,
    )
    for plane in _children(pixels, "Plane"):
        position = _number(plane.get("PositionZ"))
        if position is not None:
            # 1 µm in the stated unit gives factor and origin: positions may be negative.
            unit = length_um(1.0, plane.get("PositionZUnit"))
            if unit is not None:
                key = (
                    int(plane.get("TheT", 0)),
                    int(plane.get("TheC", 0)),
                    int(plane.get("TheZ", 0)),
                )
                image.z_um[key] = Calibration(position * unit.um, unit.source)
    return image


def _place(image: OmeImage, data: ElementTree.Element, next_page: int, here: _FileNames) -> int:
    """Enter the pages of one TiffData element; return the page after them."""
    n_planes = image.sizes["T"] * image.sizes["C"] * image.sizes["Z"]
    page = int(data.get("IFD", next_page))
    # Without IFD and PlaneCount the element stands for all planes; with IFD for one.
    default = 1 if "IFD" in data.attrib else n_planes
    count = int(data.get("PlaneCount", default))
    if not here.holds(data):
        return next_page
    first = {axis: int(data.get(f"First{axis}", 0)) for axis in "TCZ"}
    for key in _walk(image, first, count):
        image.pages[key] = page
        page += 1
    return page


def _walk(image: OmeImage, first: dict[str, int], count: int) -> Iterator[PlaneKey]:
    """Yield `count` planes from `first` on, in the image's dimension order."""
    at = dict(first)
    for _ in range(count):
        if any(at[axis] >= image.sizes[axis] for axis in "TCZ"):
            return
        yield at["T"], at["C"], at["Z"]
        for axis in image.order:
            at[axis] += 1
            if at[axis] < image.sizes[axis]:
                break
            if axis != image.order[-1]:
                at[axis] = 0


class _FileNames:
    """Tells planes of this file from those of other files of the same set."""

    def __init__(self, root: ElementTree.Element, file_name: str) -> None:
        named = {
            (uuid.get("FileName"), (uuid.text or "").strip())
            for uuid in root.iter()
            if uuid.tag.endswith("}UUID") or uuid.tag == "UUID"
        }
        self._own_uuid = root.get("UUID", "")
        self._name = file_name
        # One file only, under another name: it has been renamed since.
        self._renamed = len(named) == 1

    def holds(self, data: ElementTree.Element) -> bool:
        """Return whether a TiffData element is about this file."""
        uuids = _children(data, "UUID")
        if not uuids or self._renamed:
            return True
        own = bool(self._own_uuid) and (uuids[0].text or "").strip() == self._own_uuid
        return own or uuids[0].get("FileName") == self._name


def _children(element: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    """Return children called `tag` in any version of the OME namespace."""
    return [child for child in element if child.tag.rpartition("}")[2] == tag]


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
