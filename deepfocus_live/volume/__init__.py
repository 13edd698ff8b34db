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
from deepfocus_live.volume._ledger import Ledger, read_ledger
from deepfocus_live.volume._pyramid import halve_labels, halve_mean
from deepfocus_live.volume._reader import Run, RunImage, open_run
from deepfocus_live.volume._recover import (
    Leftovers,
    Owed,
    find_leftovers,
    find_owed,
    mend_files,
    refuse_run_in_use,
    write_levels,
)
from deepfocus_live.volume._run import (
    FORMAT_VERSION,
    LABELS,
    PROBABILITY_SCALE,
    RunWriter,
    StoredFrame,
)
from deepfocus_live.volume._store import DurableStore, write_atomically
from deepfocus_live.volume._verify import SliceFault, Verification, verify_run

__all__ = [
    "FORMAT_VERSION",
    "LABELS",
    "PROBABILITY_SCALE",
    "DurableStore",
    "ImageLayout",
    "Journal",
    "Ledger",
    "Leftovers",
    "Owed",
    "Run",
    "RunImage",
    "RunWriter",
    "SliceFault",
    "StoredFrame",
    "Verification",
    "VolumeFile",
    "create_image",
    "create_store",
    "find_leftovers",
    "find_owed",
    "halve_labels",
    "halve_mean",
    "mend_files",
    "open_levels",
    "open_run",
    "projection_layout",
    "read_journal",
    "read_ledger",
    "refuse_run_in_use",
    "verify_run",
    "write_atomically",
    "write_levels",
]
