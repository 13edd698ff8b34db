"""What this computer can do, and what stands in the way: one finding for each thing looked at."""

from __future__ import annotations

from deepfocus_live.doctor._examine import examine
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.doctor._leftovers import Leftover, find_leftovers, free_leftovers

__all__ = ["Finding", "Leftover", "examine", "find_leftovers", "free_leftovers"]
