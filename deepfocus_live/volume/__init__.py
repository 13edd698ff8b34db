"""Run directories: durable store, journal, reader. The only room that knows chunks."""

from __future__ import annotations

from deepfocus_live.volume._correct import Correction, correct_stack, spell_slices
from deepfocus_live.volume._file import VolumeFile
from deepfocus_live.volume._folder import FORMAT_VERSION, JOURNAL, partial_of
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
from deepfocus_live.volume._recompute import (
    Recomputed,
    recompute_masks,
    recomputed_label,
)
from deepfocus_live.volume._recover import (
    Leftovers,
    Owed,
    find_leftovers,
    find_owed,
    mend_files,
    refuse_run_in_use,
    write_levels,
)
from deepfocus_live.volume._run import RunWriter, StoredFrame
from deepfocus_live.volume._run_layout import CORRECTED, LABELS, PROBABILITY_SCALE
from deepfocus_live.volume._space import (
    Forecast,
    SpaceGauge,
    disk_of,
    free_bytes,
    in_bytes,
)
from deepfocus_live.volume._store import DurableStore, write_atomically
from deepfocus_live.volume._verify import SliceFault, Verification, verify_run

__all__ = [
    "CORRECTED",
    "FORMAT_VERSION",
    "JOURNAL",
    "LABELS",
    "PROBABILITY_SCALE",
    "Correction",
    "DurableStore",
    "Forecast",
    "ImageLayout",
    "Journal",
    "Ledger",
    "Leftovers",
    "Owed",
    "Recomputed",
    "Run",
    "RunImage",
    "RunWriter",
    "SliceFault",
    "SpaceGauge",
    "StoredFrame",
    "Verification",
    "VolumeFile",
    "correct_stack",
    "create_image",
    "create_store",
    "disk_of",
    "find_leftovers",
    "find_owed",
    "free_bytes",
    "halve_labels",
    "halve_mean",
    "in_bytes",
    "mend_files",
    "open_levels",
    "open_run",
    "partial_of",
    "projection_layout",
    "read_journal",
    "read_ledger",
    "recompute_masks",
    "recomputed_label",
    "refuse_run_in_use",
    "spell_slices",
    "verify_run",
    "write_atomically",
    "write_levels",
]
