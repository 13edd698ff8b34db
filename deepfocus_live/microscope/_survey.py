"""What a microscope says of itself, before anything is asked of its user."""

from __future__ import annotations

from dataclasses import dataclass

from pymmcore_plus import CMMCorePlus, DeviceType

__all__ = ["Survey", "survey"]

_DIRECTIONS = {
    1: "larger z is nearer to the specimen",
    -1: "larger z is farther from the specimen",
    0: "not known: Micro-Manager's configuration does not say which way is to the specimen",
}


@dataclass(frozen=True)
class Survey:
    """Devices by their labels; empty where there is none."""

    camera: str
    """The present one."""
    cameras: tuple[str, ...]
    width_px: int
    height_px: int
    bits: int
    exposure_ms: float
    focus_device: str
    z_um: float | None
    """Where the focus device stands."""
    focus_direction: str
    """In words."""
    stages: tuple[str, ...]
    """All that move in z."""
    xy_stage: str
    shutter: str
    auto_shutter: bool
    pixel_size_um: float | None
    """None: not calibrated."""
    pixel_size_source: str
    """Where it comes from, or why it is not known."""


def survey(core: CMMCorePlus) -> Survey:
    """Return what the core tells of its devices; nothing moves."""
    camera, focus = core.getCameraDevice(), core.getFocusDevice()
    pixel, source = _pixel_size(core)
    return Survey(
        camera=camera,
        cameras=tuple(core.getLoadedDevicesOfType(DeviceType.Camera)),
        width_px=core.getImageWidth() if camera else 0,
        height_px=core.getImageHeight() if camera else 0,
        bits=core.getImageBitDepth() if camera else 0,
        exposure_ms=core.getExposure() if camera else 0.0,
        focus_device=focus,
        z_um=core.getPosition() if focus else None,
        focus_direction=_DIRECTIONS[core.getFocusDirection(focus)] if focus else "",
        stages=tuple(core.getLoadedDevicesOfType(DeviceType.Stage)),
        xy_stage=core.getXYStageDevice(),
        shutter=core.getShutterDevice(),
        auto_shutter=core.getAutoShutter(),
        pixel_size_um=pixel,
        pixel_size_source=source,
    )


def _pixel_size(core: CMMCorePlus) -> tuple[float | None, str]:
    # Of the present objective, binning and magnification; 0 where no preset fits.
    size, preset = core.getPixelSizeUm(), core.getCurrentPixelSizeConfig()
    if size > 0:
        return size, f"pixel-size preset {preset!r} of the configuration"
    presets = core.getAvailablePixelSizeConfigs()
    if not presets:
        return None, "the configuration has no pixel-size preset"
    if preset:
        return None, f"pixel-size preset {preset!r} of the configuration says 0"
    return None, f"none of the pixel-size presets fits now: {', '.join(presets)}"
