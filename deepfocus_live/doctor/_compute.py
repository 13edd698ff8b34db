"""Where networks really run: each way is tried."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from deepfocus_live.config import Config
from deepfocus_live.doctor._finding import Finding
from deepfocus_live.errors import InputError

__all__ = ["look_at_inference", "look_at_training"]

_SIDE_PX = 512
_TURNS = 5
_NAMES = {
    "cpu": "ONNX Runtime on the processor",
    "openvino": "OpenVINO on the processor",
    "cuda": "ONNX Runtime on the GPU",
}
_ADVICE = {
    "openvino": "nothing needs it; on Intel processors it may be faster: pip install openvino",
    "cuda": "nothing needs it; with an NVIDIA GPU: pip install 'deepfocus-live[cuda]'",
}


def look_at_inference(config: Config) -> Iterator[Finding]:
    """Make a mask of an empty slice with every provider, by the model that ships."""
    import numpy as np

    from deepfocus_live.inference import InFocusModel
    from deepfocus_live.model import Registry

    shipped = Registry(config.models_dir).shipped_version()
    blank = np.zeros((_SIDE_PX, _SIDE_PX), np.uint16)
    for provider, name in _NAMES.items():
        subject = f"inference, {provider}"
        try:
            model = InFocusModel.load(
                shipped, provider=provider, threads=config.inference.threads, shape=blank.shape
            )
            model.infer(blank)
            spent = statistics.median(model.infer(blank).milliseconds for _ in range(_TURNS))
        except InputError as error:
            wanted = config.inference.provider == provider
            state = "fault" if wanted or provider == "cpu" else "note"
            advice = "choose another inference.provider" if wanted else _ADVICE.get(provider, "")
            yield Finding(subject, state, f"not to be had: {error}", advice)  # type: ignore[arg-type]
            continue
        size = f"{_SIDE_PX} × {_SIDE_PX}"
        figures = {"ms": round(spent, 2), "side_px": _SIDE_PX, "runs_on": model.provider}
        yield Finding(subject, "ok", f"{name}: {spent:.1f} ms for {size} pixels", figures=figures)


def look_at_training(_config: Config) -> Iterator[Finding]:
    """Say what torch computes on."""
    from deepfocus_live.training import training_device

    device = training_device()
    on_gpu = device.device.type != "cpu"
    yield Finding(
        "training",
        "ok" if on_gpu else "note",
        f"on {device.words}",
        "" if on_gpu else "a few minutes are enough on a processor; a GPU is faster",
    )
