"""What runs in the microscope's process: attach, acquire, and a simulated microscope."""

from __future__ import annotations

from deepfocus_live.microscope._attach import Attachment, MaskResult, StackResult, attach

__all__ = ["Attachment", "MaskResult", "StackResult", "attach"]
