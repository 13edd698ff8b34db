"""Run directories: durable store, journal, reader. The only room that knows chunks."""

from __future__ import annotations

from deepfocus_live.volume._file import VolumeFile
from deepfocus_live.volume._journal import Journal, read_journal
from deepfocus_live.volume._layout import (
    ImageLayout,
    create_image,
    create_store,
    open_levels,
    projection_layout,
)
from deepfocus_live.volume._pyramid import halve_labels, halve_mean
from deepfocus_live.volume._reader import Run, RunImage, open_run
from deepfocus_live.volume._run import (
    FORMAT_VERSION,
    LABELS,
    PROBABILITY_SCALE,
    RunWriter,
    StoredFrame,
)
from deepfocus_live.volume._store import DurableStore, write_atomically

__all__ = [
    "FORMAT_VERSION",
    "LABELS",
    "PROBABILITY_SCALE",
    "DurableStore",
    "ImageLayout",
    "Journal",
    "Run",
    "RunImage",
    "RunWriter",
    "StoredFrame",
    "VolumeFile",
    "create_image",
    "create_store",
    "halve_labels",
    "halve_mean",
    "open_levels",
    "open_run",
    "projection_layout",
    "read_journal",
    "write_atomically",
]
