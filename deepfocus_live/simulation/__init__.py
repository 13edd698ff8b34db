"""Simulated focal stacks with known truth: for the demo, for tests and for training."""

from __future__ import annotations

from deepfocus_live.simulation._optics import Camera, Optics
from deepfocus_live.simulation._render import (
    FocalStack,
    demo_stack,
    focus_tolerance_um,
    simulate_focal_stack,
)
from deepfocus_live.simulation._specimens import SPECIMENS, Field, Structure

__all__ = [
    "SPECIMENS",
    "Camera",
    "Field",
    "FocalStack",
    "Optics",
    "Structure",
    "demo_stack",
    "focus_tolerance_um",
    "simulate_focal_stack",
]
