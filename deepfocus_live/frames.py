"""The nouns that every room shares: which frame, of which stack, of which run.

A frame is identified by (run id, sequence number) and nothing else. Its
`FrameIndex` is the whole useq index; where it is stored is its `Placement`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Calibration",
    "ChannelSpec",
    "FrameHeader",
    "FrameIndex",
    "ImageSpec",
    "Placement",
    "PlateSpec",
    "RunSpec",
    "StackKey",
    "UnitSource",
    "luminance",
]

UnitSource = Literal["stage", "file", "user", "assumed"]
"""Who stated a length; see `Calibration`."""


@dataclass(frozen=True)
class Calibration:
    """A length and where it came from: a unit nobody stated is never passed off as stated.

    Attributes
    ----------
    um : float
        In µm.
    source : {"stage", "file", "user", "assumed"}
        Who stated number and unit. "assumed": the number is the file's, its unit is not.
    """

    um: float
    source: UnitSource


class FrameIndex(Mapping[str, int]):
    """The whole useq index of a frame, hashable: axis name to position along it.

    Two tiles of a grid differ only in `g`, so no axis may be dropped.

    Examples
    --------
    >>> from deepfocus_live.frames import FrameIndex
    >>> index = FrameIndex({"t": 0, "p": 1, "z": 4})
    >>> index
    FrameIndex(t=0, p=1, z=4)
    >>> index["z"]
    4
    >>> index == FrameIndex({"z": 4, "p": 1, "t": 0})
    True
    """

    def __init__(self, axes: Mapping[str, int]) -> None:
        self._axes = {str(axis): int(position) for axis, position in axes.items()}

    def __getitem__(self, axis: str) -> int:
        return self._axes[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __hash__(self) -> int:
        return hash(frozenset(self._axes.items()))

    def __repr__(self) -> str:
        inside = ", ".join(f"{axis}={position}" for axis, position in self._axes.items())
        return f"FrameIndex({inside})"


class StackKey(NamedTuple):
    """One focal stack: all z of one image (position × tile), time point and channel.

    Numbers count from 0; `image` is that of `RunSpec.images`, `c` the channel as stored.
    """

    run_id: str
    image: int
    t: int
    c: int

    def placement(self, z: int) -> Placement:
        """Return the place of the stack's slice `z`."""
        return Placement(self.image, self.t, self.c, z)


class Placement(NamedTuple):
    """Where a frame lies in its run: the image's number and its t, c, z there, from 0."""

    image: int
    t: int
    c: int
    z: int

    def stack(self, run_id: str) -> StackKey:
        """Return the key of the stack that this place belongs to."""
        return StackKey(run_id, self.image, self.t, self.c)


class _Shared(BaseModel):
    """Crosses rooms and processes: frozen, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChannelSpec(_Shared):
    """One channel as stored: an optical configuration seen by one camera."""

    name: str
    camera: str | None = None
    """Its name; None: not known."""
    exposure_ms: float | None = None
    profile: str | None = None
    """What it is looked at with; the daemon's choice, made when the run begins."""


class PlateSpec(_Shared):
    """A well plate: the names of its rows and columns, all of them, imaged or not."""

    name: str = "plate"
    rows: tuple[str, ...] = Field(min_length=1)
    columns: tuple[str, ...] = Field(min_length=1)


class ImageSpec(_Shared):
    """One image of a run: a stage position × grid tile, with its own z count."""

    position: int = 0
    """Along the axis `p`."""
    tile: int = 0
    """Along the axis `g`."""
    name: str
    well: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]+/[A-Za-z0-9]+$")
    """Row and column of the plate, as "B/3"; None: the image lies in no well."""
    field: int = Field(default=0, ge=0)
    """Number of the image within its well."""
    size_t: int = Field(default=1, ge=1)
    size_z: int = Field(default=1, ge=1)
    x_um: float | None = None
    """Of the stage, as planned, as `y_um`; None: not known."""
    y_um: float | None = None


class RunSpec(_Shared):
    """What is known of a run before its first frame.

    Sizes are expectations: a run from an iterator has none, and grows.
    """

    run_id: str
    """Of this run alone, on any computer."""
    name: str
    height_px: int = Field(ge=1)
    width_px: int = Field(ge=1)
    dtype: Literal["uint8", "uint16"]
    samples_per_pixel: Literal[1, 3] = 1
    """3: red, green and blue."""
    bits_per_sample: int | None = Field(default=None, ge=1, le=16)
    """Of the camera's counts; None: not known."""
    images: tuple[ImageSpec, ...] = Field(min_length=1)
    """In the order of their numbers."""
    plate: PlateSpec | None = None
    channels: tuple[ChannelSpec, ...] = Field(min_length=1)
    """As stored: of several cameras each sees every channel of the sequence."""
    cameras: tuple[str, ...] = ()
    """Their names, in the order of the axis `cam`; empty: not known."""
    pixel_size_um: Calibration | None = None
    """A camera pixel as seen at the specimen; None: not known."""
    pixel_size_preset: str | None = None
    """Name of Micro-Manager's pixel-size preset; None: none fits, or it is not known."""
    z_step_um: Calibration | None = None
    time_step_s: float | None = Field(default=None, gt=0)
    """From one time point to the next, as planned; None: not known, or as fast as possible."""
    output: str | None = None
    """Folder that its program chose; None: the daemon's own."""
    profile: str | None = None
    """Asked for by who takes the run; None: each channel has what the configuration gives it."""
    frames_expected: int | None = None
    """By its plan; None: not known."""
    continues: str | None = None
    """The run that this one goes on with, where the camera's image changed in its middle."""
    sequence: dict[str, Any] | None = None
    """The useq sequence as plain values; None: not known."""
    software: dict[str, str] = {}
    """Versions of what took it, by name."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's pixels."""
        itemsize = 2 if self.dtype == "uint16" else 1
        return self.height_px * self.width_px * self.samples_per_pixel * itemsize

    def profile_of(self, channel: int) -> str:
        """Return the profile that a stored channel is looked at with."""
        return self.channels[channel].profile or self.profile or "default"

    @cached_property
    def _image_numbers(self) -> dict[tuple[int, int], int]:
        return {(image.position, image.tile): n for n, image in enumerate(self.images)}

    def image_number(self, index: FrameIndex) -> int | None:
        """Return the number of the image that `index` belongs to; None if it is not planned."""
        return self._image_numbers.get((index.get("p", 0), index.get("g", 0)))

    def channel_number(self, index: FrameIndex) -> int:
        """Return the stored channel of `index`: cameras extend c."""
        return index.get("c", 0) * max(len(self.cameras), 1) + index.get("cam", 0)


class FrameHeader(_Shared):
    """Everything known of one frame but its pixels; travels with them through the ring."""

    run_id: str
    sequence_number: int = Field(ge=0)
    index: dict[str, int]
    """The whole useq index, see `FrameIndex`."""
    height_px: int
    width_px: int
    dtype: Literal["uint8", "uint16"]
    samples_per_pixel: Literal[1, 3] = 1
    """3: the pixels are (3, Y, X), red, green and blue."""
    z_um: float | None = None
    """Of the stage, measured or else as asked for, as `x_um` and `y_um`; None: not known."""
    x_um: float | None = None
    y_um: float | None = None
    exposure_ms: float | None = None
    camera: str | None = None
    hardware_triggered: bool = False
    taken_at: float
    """Seconds since the epoch, when `frameReady` was emitted."""


_RED, _GREEN = 19595, 38470  # Rec. 601's 0.299 and 0.587, times 65536; blue is the rest


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return what is looked at of a frame where one number per pixel is needed.

    Parameters
    ----------
    pixels : (Y, X) or (3, Y, X) uint8 or uint16
        Grey, or red, green and blue.

    Returns
    -------
    (Y, X), same dtype
        A grey frame as it is; of colours the luminance of Rec. 601, rounded. Three equal planes
        give that plane.
    """
    if pixels.ndim == 2:
        return pixels
    red, green, blue = cast("list[NDArray[Any]]", [plane.astype("uint32") for plane in pixels])
    # The weights add up to 65536, so 65535 of all three, and a half, just fit 32 bits.
    red *= _RED
    green *= _GREEN
    blue *= 65536 - _RED - _GREEN
    red += green
    red += blue
    red += 32768
    red >>= 16
    return red.astype(pixels.dtype)
