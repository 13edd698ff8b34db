"""Reading a STACK or its masks: TIFF, folder of images, OME-Zarr or run directory, by slices.

The only room that knows what focal stacks look like in files. Nothing is held
in memory but headers; what a file does not say is not made up, and what had to be
assumed stands in ``Stack.notes``.
"""

from __future__ import annotations

from deepfocus_live.stacks._masks import MaskStack, open_masks
from deepfocus_live.stacks._open import open_stack, open_stacks
from deepfocus_live.stacks._stack import Stack

__all__ = ["MaskStack", "Stack", "open_masks", "open_stack", "open_stacks"]
