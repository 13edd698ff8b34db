"""What `docs/formats.md` says of the journal is what is written."""

from __future__ import annotations

import re
from pathlib import Path

from deepfocus_live.frames import FrameHeader, Placement
from tests.journal_reference import documented_keys

_SOURCES = Path(__file__).parents[2] / "deepfocus_live"
_KIND = re.compile(r'(?:\.note\(\s*|"kind": |^_KIND = |^CORRECTED = )"(\w+)"', re.MULTILINE)
_OF_THE_RUN = {"run_id", "height_px", "width_px", "dtype", "samples_per_pixel"}


def test_every_kind_of_line_is_documented() -> None:
    written: set[str] = set()
    for room in ("volume", "daemon"):
        for file in (_SOURCES / room).rglob("*.py"):
            written |= set(_KIND.findall(file.read_text(encoding="utf-8")))
    assert written == set(documented_keys())


def test_every_key_of_a_frame_is_documented() -> None:
    header = set(FrameHeader.model_fields) - _OF_THE_RUN
    marks = {"kind", "crc32", "stored", "may_be_torn"}
    assert documented_keys()["frame"] == header | set(Placement._fields) | marks
