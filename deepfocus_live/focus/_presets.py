"""Presets: one way to label, with its name.

A preset opens a *labeling* for stacks imaged under certain conditions: `scan` keeps
what it needs of a slice as it arrives, `judge` decides when the stack is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepfocus_live.focus._conditions import Conditions
from deepfocus_live.focus._consensus import Limits, consensus_rule
from deepfocus_live.focus._door import checked_slice
from deepfocus_live.focus._evidence import GRAINS_PER_BLOCK, Evidence, slice_evidence
from deepfocus_live.focus._findings import Findings, findings_of
from deepfocus_live.focus._measures import measure_named
from deepfocus_live.focus._rules import Decision, axial_rule, stack_otsu_rule
from deepfocus_live.focus._scan import Combine, Overlap, focus_score_blocks, scan_block_px

__all__ = [
    "DEFAULT_PRESET",
    "PRESETS",
    "ConsensusPreset",
    "Judgement",
    "Labeling",
    "Preset",
    "ScanPreset",
    "preset_named",
    "projection_sharpness",
]

DEFAULT_PRESET = "consensus"
"""Name of the preset that is used where none is named."""


@dataclass(frozen=True)
class Judgement:
    """What a labeling says of a stack.

    Attributes
    ----------
    decision : Decision
    scores : (Z, By, Bx) float32
        By which slices may be compared at one place; higher is sharper.
    findings : Findings or None
        What was found on the way, by labelings that look.
    """

    decision: Decision
    scores: NDArray[np.float32]
    findings: Findings | None = None


class Labeling(Protocol):
    """One way to label stacks imaged under certain conditions."""

    block_px: int
    """Side of the blocks that labels are made on, in pixels."""

    reach_px: int
    """How far from a pixel its label looks, in pixels."""

    def scan(self, z_slice: ArrayLike, /) -> Any:
        """Return what is kept of a slice."""

    def scores(self, kept: Any, /) -> NDArray[np.float32]:
        """Return a slice's scores, (By, Bx), from what was kept of it."""

    def nbytes(self, kept: Any, /) -> int:
        """Return how much memory that takes."""

    def judge(self, kept: Sequence[Any], /) -> Judgement:
        """Decide about at least 3 slices, in z order."""


class Preset(Protocol):
    """A way to label, by name."""

    @property
    def name(self) -> str:
        """As in configuration and on the command line."""

    @property
    def summary(self) -> str:
        """One line for people."""

    def open(self, conditions: Conditions, /) -> Labeling:
        """Return it for stacks imaged so."""


@dataclass(frozen=True)
class ScanPreset:
    """A scan by one measure, and a rule over its scores.

    Attributes
    ----------
    name, summary : str
        As of every `Preset`.
    rule : scores (Z, By, Bx) -> Decision
        What decides; see `axial_rule`.
    measure, windows_px, strides_px, overlap, combine
        As in `focus_score_map`.
    """

    name: str
    summary: str
    rule: Callable[[NDArray[np.float32]], Decision]
    measure: str = "std"
    windows_px: tuple[int, ...] = (128,)
    strides_px: tuple[int, ...] = (16, 32, 64, 128)
    overlap: Overlap = "mean"
    combine: Combine = "max"

    def open(self, conditions: Conditions, /) -> Labeling:
        """Return it; conditions do not matter to it."""
        return _ScanLabeling(self)

    def measured_by(self, measure: str) -> ScanPreset:
        """Return the preset with another measure.

        Raises
        ------
        ValueError
            If no measure is called so.
        """
        return replace(self, measure=measure_named(measure).name)


class _ScanLabeling:
    def __init__(self, preset: ScanPreset) -> None:
        self._preset = preset
        self.block_px = scan_block_px(preset.windows_px, preset.strides_px)
        self.reach_px = max(preset.windows_px)

    def scan(self, z_slice: ArrayLike, /) -> NDArray[np.float32]:
        preset = self._preset
        return focus_score_blocks(
            z_slice,
            measure=preset.measure,
            windows_px=preset.windows_px,
            strides_px=preset.strides_px,
            overlap=preset.overlap,
            combine=preset.combine,
        ).scores

    def scores(self, kept: NDArray[np.float32], /) -> NDArray[np.float32]:
        return kept

    def nbytes(self, kept: NDArray[np.float32], /) -> int:
        return kept.nbytes

    def judge(self, kept: Sequence[NDArray[np.float32]], /) -> Judgement:
        scores = np.stack(kept)
        return Judgement(self._preset.rule(scores), scores)


@dataclass(frozen=True)
class ConsensusPreset:
    """Two measures vote, and say where they do not know.

    Attributes
    ----------
    name, summary : str
        As of every `Preset`.
    limits : Limits
        What the rule asks for.
    """

    name: str
    summary: str
    limits: Limits = field(default_factory=Limits)

    def open(self, conditions: Conditions, /) -> Labeling:
        """Return it for stacks imaged so."""
        return _ConsensusLabeling(self.limits, conditions)


class _ConsensusLabeling:
    def __init__(self, limits: Limits, conditions: Conditions) -> None:
        self._limits = limits
        self._conditions = conditions
        self._grain_px = conditions.grain_px
        self._dtype = np.dtype(np.uint16)
        self.block_px = GRAINS_PER_BLOCK * self._grain_px
        # Two blocks of a window, a neighbour's, and the grains of a Laplacian.
        self.reach_px = 4 * self.block_px

    def scan(self, z_slice: ArrayLike, /) -> Evidence:
        pixels = checked_slice(z_slice)
        self._dtype = pixels.dtype
        return slice_evidence(pixels, self._grain_px)

    def scores(self, kept: Evidence, /) -> NDArray[np.float32]:
        root: NDArray[np.float32] = np.sqrt(kept.detail)
        return root

    def nbytes(self, kept: Evidence, /) -> int:
        return sum(plane.nbytes for plane in vars(kept).values())

    def judge(self, kept: Sequence[Evidence], /) -> Judgement:
        verdict = consensus_rule(
            kept,
            grain_px=self._grain_px,
            dtype=self._dtype,
            dark_offset=self._conditions.dark_offset,
            flat_field=self._flat_blocks(),
            limits=self._limits,
        )
        return Judgement(
            Decision(verdict.weak_label, verdict.undecided, verdict.faint),
            verdict.scores,
            findings_of(verdict, self._conditions, window_px=2 * self.block_px),
        )

    def _flat_blocks(self) -> NDArray[np.float32] | None:
        """Return the flat field at block resolution, 1 on average."""
        if self._conditions.flat_field is None:
            return None
        flat = slice_evidence(np.asarray(self._conditions.flat_field, np.float32), self._grain_px)
        relative: NDArray[np.float32] = flat.mean / flat.mean.mean()
        return relative


_TABLE: tuple[Preset, ...] = (
    ConsensusPreset(
        name="consensus",
        summary="std and fine detail vote in 16 px windows, and say where they do not know",
    ),
    ScanPreset(
        name="axial",
        summary="std in 32 px windows, risen 80 % of the way to its own best slice",
        rule=axial_rule,
        windows_px=(32,),
        strides_px=(16,),
    ),
    ScanPreset(
        name="paper",
        summary="std in 128 px windows, one Otsu threshold over the stack",
        rule=stack_otsu_rule,
    ),
    ScanPreset(
        name="casus",
        summary="the published code's: as paper, 15 strides, added where windows overlap",
        rule=stack_otsu_rule,
        strides_px=tuple(range(8, 37, 2)),
        overlap="sum",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _TABLE})
"""Ways to label, by name."""


def preset_named(name: str) -> Preset:
    """Return the preset called `name`, or raise ValueError that names what exists."""
    if name not in PRESETS:
        raise ValueError(f"unknown label preset {name!r}: there is {', '.join(PRESETS)}")
    return PRESETS[name]


def projection_sharpness(preset: Preset) -> float:
    """Return by which power of a preset's scores slices are weighed; see `StackProjector`."""
    squared = isinstance(preset, ScanPreset) and (
        measure_named(preset.measure).unit.startswith("counts²")
    )
    return 16.0 if squared else 32.0
