"""Presets: a scan and a rule under one name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from deepfocus_live.focus._rules import Decision, axial_rule, stack_otsu_rule
from deepfocus_live.focus._scan import Combine, Overlap, scan_block_px

__all__ = ["PRESETS", "Preset", "preset_named"]


@dataclass(frozen=True)
class Preset:
    """How weak labels are made: the scan of each slice, then the rule over the stack.

    Attributes
    ----------
    name : str
        As written in configuration and on the command line.
    summary : str
        One line for help texts.
    rule : (Z, By, Bx) float32 scores -> Decision
        Asked once, when the stack is done.
    measure, windows_px, strides_px, overlap, combine
        As in `focus_score_blocks`.
    """

    name: str
    summary: str
    rule: Callable[[NDArray[np.float32]], Decision]
    measure: str = "std"
    windows_px: tuple[int, ...] = (128,)
    strides_px: tuple[int, ...] = (16, 32, 64, 128)
    overlap: Overlap = "mean"
    combine: Combine = "max"

    @property
    def block_px(self) -> int:
        """Side of the blocks that labels are made on, in pixels."""
        return scan_block_px(self.windows_px, self.strides_px)


_TABLE = (
    Preset(
        name="axial",
        summary="std in 32 px windows, risen 80 % of the way to its own best slice",
        rule=axial_rule,
        windows_px=(32,),
        strides_px=(16,),
    ),
    Preset(
        name="paper",
        summary="std in 128 px windows, one Otsu threshold over the stack",
        rule=stack_otsu_rule,
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _TABLE})


def preset_named(name: str) -> Preset:
    """Return the preset called `name`, or raise ValueError that names what exists."""
    if name not in PRESETS:
        raise ValueError(f"unknown label preset {name!r}: there is {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
