"""Handing on what a run or a stack holds, in forms that other programs read.

The only room that knows OME-TIFF, ImageJ's hyperstacks and OME-Zarr 0.4 as they are written.
"""

from __future__ import annotations

from deepfocus_live.export._export import Export
from deepfocus_live.export._from_above import FromAbove
from deepfocus_live.export._from_run import source_of_run
from deepfocus_live.export._products import EVERYTHING, KINDS
from deepfocus_live.export._source import Place, SourceImage, SourceLabel
from deepfocus_live.export._write import FORMATS

__all__ = [
    "EVERYTHING",
    "FORMATS",
    "KINDS",
    "Export",
    "FromAbove",
    "Place",
    "SourceImage",
    "SourceLabel",
    "source_of_run",
]
