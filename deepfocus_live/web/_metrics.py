"""The daemon's state as Prometheus's text format 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["METRICS_TYPE", "metrics_text"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Sample = tuple[Mapping[str, str], Any]


def metrics_text(status: Mapping[str, Any], *, healthy: bool, viewers: int) -> str:
    """Return what a scrape gets; what `status` does not know is left out."""
    lines: list[str] = []
    for name, kind, help_text, samples in _families(status, healthy, viewers):
        known = [(labels, value) for labels, value in samples if _is_number(value)]
        if known:
            lines += [f"# HELP deepfocus_{name} {help_text}", f"# TYPE deepfocus_{name} {kind}"]
            lines += [f"deepfocus_{name}{_spell(labels)} {value}" for labels, value in known]
    return "\n".join(lines) + "\n"


def _families(
    status: Mapping[str, Any], healthy: bool, viewers: int
) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    info = {key: str(status.get(key)) for key in ("version", "model", "provider", "state")}
    yield "up", "gauge", "1 while healthy.", [({}, int(healthy))]
    yield "info", "gauge", "What runs.", [(info, 1)]
    frames = _dict(status, "frames")
    by_stage: list[_Sample] = [({"stage": stage}, frames.get(stage)) for stage in frames]
    yield "frames_total", "counter", "Frames since the daemon started.", by_stage
    rate: list[_Sample] = [({}, status.get("frames_per_s"))]
    yield "frames_per_second", "gauge", "Frames stored a second.", rate
    waiting: list[_Sample] = [({"what": k}, v) for k, v in _dict(status, "waiting").items()]
    yield "waiting", "gauge", "What is behind.", waiting
    yield "latency_seconds", "gauge", "From the exposure on.", list(_latencies(status))
    ring: list[_Sample] = [({}, status.get("ring_fill"))]
    yield "ring_fill", "gauge", "Of the fullest ring, 0 to 1.", ring
    disk: list[_Sample] = [({}, status.get("disk_free_bytes"))]
    yield "disk_free_bytes", "gauge", "On the disk of the output folder.", disk
    warnings = status.get("warnings")
    count: list[_Sample] = [({}, None if warnings is None else len(warnings))]
    yield "warnings", "gauge", "That stand now.", count
    yield "viewers", "gauge", "Of the page.", [({}, viewers)]
    uptime: list[_Sample] = [({}, status.get("uptime_s"))]
    yield "uptime_seconds", "gauge", "Since the daemon started.", uptime
    paused = status.get("masks_paused")
    yield (
        "masks_paused",
        "gauge",
        "1 while they are.",
        [({}, None if paused is None else int(paused))],
    )


def _latencies(status: Mapping[str, Any]) -> Iterator[_Sample]:
    for to in ("durable", "mask"):
        for quantile, key in (("0.5", "p50"), ("0.99", "p99")):
            value: Any = _dict(status, f"camera_to_{to}_ms").get(key)
            if _is_number(value):
                yield {"to": to, "quantile": quantile}, value / 1000


def _dict(status: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = status.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _spell(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
