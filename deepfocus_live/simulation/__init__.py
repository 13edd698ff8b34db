"""Simulated focal stacks with known truth: for the demo, for tests and for training."""

from __future__ import annotations

from deepfocus_live.simulation._optics import Camera, Optics
from deepfocus_live.simulation._pattern import FixedPattern
from deepfocus_live.simulation._render import (
    Contrast,
    FocalStack,
    demo_stack,
    focus_tolerance_um,
    simulate_focal_stack,
)
from deepfocus_live.simulation._specimens import SPECIMENS, Field, Structure
from deepfocus_live.simulation._variety import VariedStack, varied_focal_stack

__all__ = [
    "SPECIMENS",
    "Camera",
    "Contrast",
    "Field",
    "FixedPattern",
    "FocalStack",
    "Optics",
    "Structure",
    "VariedStack",
    "demo_stack",
    "focus_tolerance_um",
    "simulate_focal_stack",
    "varied_focal_stack",
]
