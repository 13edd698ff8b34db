"""The configuration: one tree of models, which is the YAML file's schema."""

from __future__ import annotations

import difflib
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from deepfocus_live.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Config",
    "InferenceConfig",
    "LabelsConfig",
    "LearningConfig",
    "MatchConfig",
    "ProfileConfig",
    "RingConfig",
    "StorageConfig",
    "WebConfig",
    "load_config",
    "packaged_data",
    "said_of",
    "writable_folder",
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class WebConfig(_Section):
    """The live page."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """None: 8765, or any free one where that is taken; 0: any free one."""
    serve_volumes: bool = False
    """Whether runs can be opened by address, as OME-Zarr over HTTP."""
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/\s*]+$")], ...] = ()
    """Web pages that may read them, as `https://example.org`."""


class StorageConfig(_Section):
    """How slices reach the disk."""

    mode: Literal["all", "masks-only"] = "all"
    """`masks-only`: no pixels are written, for users whose own software saves them already."""
    codec: Literal["lz4", "zstd", "none"] = "lz4"
    workers: Annotated[int, Field(ge=1, le=64)] = 4
    durability: Literal["power-loss", "process"] = "power-loss"
    """`power-loss` syncs before it acknowledges; `process` survives a killed daemon only."""
    reserve_mb: Annotated[int, Field(ge=0)] = 1024
    """Room on the disk that the forecast of space leaves to others."""


class RingConfig(_Section):
    """Shared memory between the microscope's process and the daemon."""

    slots: Annotated[int, Field(ge=2, le=4096)] | None = None
    """None: as many frames as fit `memory_mb`."""
    memory_mb: Annotated[int, Field(ge=1)] | None = None
    """None: an eighth of the memory that is free at the start, at most 512."""
    spill: Path | None = None
    """Folder for frames of a hardware-sequenced run that find the ring full; None: in the user's
    cache folder."""


class InferenceConfig(_Section):
    """The live masks."""

    enabled: bool = True
    provider: Literal["auto", "cpu", "cuda", "openvino"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """None: as many as there are physical cores."""
    backlog_mb: Annotated[int, Field(ge=1)] = 512
    """Slices kept in memory for the masks; older ones are read back from the disk."""


class LabelsConfig(_Section):
    """The weak labels made of every finished stack."""

    enabled: bool = True
    memory_mb: Annotated[int, Field(ge=16)] = 512
    """For what is kept of unfinished stacks; above it they are read again when they are whole."""


class LearningConfig(_Section):
    """Teaching the network from the weak labels, beside the acquisition."""

    after_stacks: Annotated[int, Field(ge=0)] = 20
    """Fine-tune after so many newly labelled stacks that can be learnt from; 0: never by count."""
    below_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fine-tune also when agreement with the rule stays below this; None: never by agreement."""
    for_stacks: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many stacks in a row must lie below `below_agreement`."""
    every_minutes: Annotated[float, Field(ge=0, le=7 * 24 * 60)] = 15.0
    """Least time from the start of one fine-tune to the next, unless asked for by hand."""
    minutes: Annotated[float, Field(gt=0, le=24 * 60)] = 2.0
    swap: Literal["between-runs", "between-stacks", "manual"] = "between-runs"
    """When a model that passed the gate is made current."""
    threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Of the trainer; None: half the cores, at least 1."""
    memory_mb: Annotated[int, Field(ge=256)] = 1500
    """For the slices that the trainer learns from and what is made of them."""
    gpu_memory_mb: Annotated[int, Field(ge=256)] = 2000
    """What the trainer may take of the GPU's memory."""


class MatchConfig(_Section):
    """Which channels have a profile by themselves: those that fit all lists that say something."""

    pixel_size: tuple[str, ...] = ()
    """Names of Micro-Manager's pixel-size presets; `*` and `?` as in file names."""
    channels: tuple[str, ...] = ()
    """Names of channels, likewise."""


class ProfileConfig(_Section):
    """One way of looking at one kind of specimen; each has its own model and history."""

    modality: Literal["brightfield", "phase", "DIC", "fluorescence"] = "brightfield"
    numerical_aperture: Annotated[float, Field(gt=0, le=1.7)] | None = None
    immersion_index: Annotated[float, Field(ge=1, le=2)] = 1.0
    wavelength_nm: Annotated[float, Field(ge=200, le=2000)] | None = None
    label_preset: str = "consensus"
    window_um: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Side of the windows of the `consensus` preset; None: by optics and pixel size, or 16 px."""
    dark_offset: Annotated[float, Field(ge=0, le=65535)] | None = None
    """Counts of a pixel that saw no light; None: estimated from the stack."""
    flat_field: Path | None = None
    """TIFF of an empty field, its dark offset not taken off."""
    channels: tuple[str, ...] = ()
    """Channels that are segmented; empty: all."""
    match: MatchConfig = MatchConfig()

    @field_validator("immersion_index")
    @classmethod
    def _above_aperture(cls, index: float, info: ValidationInfo) -> float:
        aperture = info.data.get("numerical_aperture")
        if aperture is not None and not index > aperture:
            raise ValueError(f"not above numerical_aperture {aperture:g}: water is 1.33, oil 1.515")
        return index

    def imaging(self) -> dict[str, Any]:
        """Return what it knows of the imaging, by the names that `focus.Conditions` has.

        Reads the flat field: call it once, when work begins.

        Raises
        ------
        InputError
            If the flat field cannot be used.
        """
        known: dict[str, Any] = {
            "numerical_aperture": self.numerical_aperture,
            "immersion_index": self.immersion_index,
            "window_um": self.window_um,
            "dark_offset": self.dark_offset,
        }
        if self.wavelength_nm is not None:
            known["wavelength_um"] = self.wavelength_nm / 1000
        if self.flat_field is not None:
            known["flat_field"] = _read_flat_field(self.flat_field, self.dark_offset or 0.0)
        return known


class Config(_Section):
    """Everything that can be set. `configs/default.yaml` lists every key."""

    output: Path | None = None
    """Folder that runs are written into; None: `deepfocus-runs` in the home folder."""
    models: Path | None = None
    """Folder of the models; None: the user's data folder."""
    web: WebConfig = WebConfig()
    storage: StorageConfig = StorageConfig()
    ring: RingConfig = RingConfig()
    inference: InferenceConfig = InferenceConfig()
    labels: LabelsConfig = LabelsConfig()
    learning: LearningConfig = LearningConfig()
    python: Path | None = None
    """Interpreter that `attach` starts the daemon with; None: the one that runs."""
    profiles: dict[str, ProfileConfig] = {"default": ProfileConfig()}

    @field_validator("profiles")
    @classmethod
    def _with_default(cls, given: dict[str, ProfileConfig]) -> dict[str, ProfileConfig]:
        # Runs that name no profile have this one, whatever others there are.
        return {"default": ProfileConfig(), **given}

    @property
    def output_dir(self) -> Path:
        """The folder that runs are written into, absolute."""
        return (self.output or Path.home() / "deepfocus-runs").expanduser().absolute()

    @property
    def models_dir(self) -> Path | None:
        """The folder of the models, absolute; None: the user's data folder."""
        return None if self.models is None else self.models.expanduser().absolute()


def packaged_data(name: str) -> Path:
    """Return the folder `configs` or `onnx_models`, in a checkout or in an installed wheel."""
    package = Path(__file__).parent
    installed = package / "_data" / name
    return installed if installed.is_dir() else package.parent / name


def _read_flat_field(path: Path, dark_offset: float) -> NDArray[np.float32]:
    """Return the image of an empty field, (Y, X) float32, less `dark_offset`; above 0.

    Parameters
    ----------
    path : Path
        A TIFF with one greyscale image; ``~`` is the home folder.
    dark_offset : float
        Counts of a pixel that saw no light.

    Raises
    ------
    InputError
        If it cannot be read, is not one greyscale image, or is not above the offset everywhere.
    """
    import numpy as np
    import tifffile

    path = path.expanduser()
    mend = "give a TIFF of an empty, lit field"
    try:
        image = np.squeeze(tifffile.imread(path))
    except OSError as error:
        raise InputError(
            f"{path}: the flat field cannot be read: {error.strerror or error}; {mend}."
        ) from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise InputError(f"{path}: the flat field cannot be read ({error}); {mend}.") from error
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise InputError(
            f"{path}: the flat field is {image.shape} {image.dtype}, not one greyscale image; "
            f"{mend}."
        )
    flat: NDArray[np.float32] = image.astype(np.float32) - np.float32(dark_offset)
    dark = flat.size - int(np.count_nonzero(np.isfinite(flat) & (flat > 0)))
    if dark:
        raise InputError(
            f"{path}: {dark} pixels of the flat field are not above the dark offset of "
            f"{dark_offset:g} counts; {mend}, or correct the offset."
        )
    return flat


def writable_folder(folder: Path) -> Path:
    """Make `folder` where it is missing, and return it, absolute, once it has taken a file.

    Raises
    ------
    InputError
        If it cannot be written to.
    """
    folder = folder.expanduser().absolute()
    # Rights say little on network drives: trying is the only way to know.
    probe = folder / f".deepfocus-live-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write here: {error.strerror}. Choose another --output."
        ) from None
    return folder


def load_config(path: Path | str | None = None, **changes: Any) -> Config:
    """Read a YAML configuration file and put `changes` over it.

    Parameters
    ----------
    path : path or None
        None: the defaults.
    **changes
        Values by key; nested keys are written with two underscores
        (`web__port=0`). None means "as in the file".

    Returns
    -------
    Config

    Raises
    ------
    InputError
        If the file cannot be read, or it or `changes` has a key or value that is not
        allowed; the message names the key and the nearest one that exists.

    Examples
    --------
    >>> from deepfocus_live.config import load_config
    >>> load_config(web__port=0).web.port
    0
    >>> load_config(web__prt=0)
    Traceback (most recent call last):
        ...
    deepfocus_live.errors.InputError: configuration: unknown key `web.prt`. Did you mean `port`?
    """
    tree = {} if path is None else _read_yaml(Path(path))
    for dotted, value in changes.items():
        if value is not None:
            _put(tree, dotted.split("__"), value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(_explain(error, path)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the configuration: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise InputError(f"{path}: not a YAML file: {first}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{path}: a configuration is a list of `key: value` lines.")
    return tree


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = tree.get(key)
        tree[key] = dict(below) if isinstance(below, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def _explain(error: ValidationError, path: Path | str | None) -> str:
    """Return one line for the first thing that is wrong."""
    first = error.errors()[0]
    where = f"{path}: " if path is not None else "configuration: "
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.0)
        return f"{where}unknown key `{key}`. Did you mean `{near[0]}`?"
    return f"{where}`{key}` {said_of(error)}"


def said_of(error: ValidationError) -> str:
    """Return what is wrong with the first wrong value: "cannot be 3: …"."""
    first = error.errors()[0]
    return f"cannot be {first.get('input')!r}: {first['msg'].removeprefix('Value error, ')}."


def _known_keys(parents: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    names_are_free = False
    for part in parents:
        if names_are_free:
            # The level below `profiles` has names that the user chose.
            names_are_free = False
            continue
        annotation = model.model_fields[str(part)].annotation
        inner = [annotation, *get_args(annotation)]
        model = next(a for a in inner if isinstance(a, type) and issubclass(a, BaseModel))
        names_are_free = annotation is not model
    return list(model.model_fields)
