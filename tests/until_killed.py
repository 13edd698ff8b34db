"""What a process does that is there to be killed: it stores frames, or takes them, and says so.

Light to import: each of them is a fresh interpreter.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import useq
    from pymmcore_plus import CMMCorePlus

    from deepfocus_live.config import StorageConfig
    from deepfocus_live.frames import RunSpec

__all__ = [
    "AcquirePlan",
    "WriterPlan",
    "acquire_until_killed",
    "digest",
    "load_demo_camera",
    "plan_acquisition",
    "plan_writer",
    "write_until_killed",
]

# ------------------------------------------------------------------- a writer

_ORDERS: dict[str, tuple[Callable[[int], dict[str, int]], list[dict[str, Any]]]] = {
    "planned": (
        lambda n: {"t": n // 3, "z": n % 3},
        [{"name": "here", "size_t": 2000, "size_z": 3}],
    ),
    "more-time": (
        lambda n: {"t": n // 3, "z": n % 3},
        [{"name": "here", "size_t": 1, "size_z": 3}],
    ),
    "more-z": (lambda n: {"z": n}, [{"name": "here", "size_t": 1, "size_z": 1}]),
    "positions-in-turn": (
        lambda n: {"t": n // 6, "p": n // 3 % 2, "z": n % 3},
        [{"name": f"p{p}", "position": p, "size_t": 2, "size_z": 3} for p in range(2)],
    ),
    "more-positions": (
        lambda n: {"p": n // 4, "z": n % 4},
        [{"name": "here", "size_t": 1, "size_z": 4}],
    ),
    "no-index": (lambda _: {}, [{"name": "here", "size_t": 1, "size_z": 1}]),
}


@dataclass(frozen=True)
class WriterPlan:
    """What a writer writes, and how; made of a seed by `plan_writer`."""

    durability: str
    codec: str
    order: str
    height_px: int
    width_px: int
    dtype: str
    workers: int
    derived: bool
    """Whether pyramids, masks and labels are written too."""

    def __str__(self) -> str:
        size = f"{self.height_px}×{self.width_px} {self.dtype}"
        how = f"{self.workers} at once" + (", masks" if self.derived else "")
        return f"{self.durability}, {self.codec}, {self.order}, {size}, {how}"

    def index(self, number: int) -> dict[str, int]:
        """Return where in the sequence frame `number` was taken."""
        return _ORDERS[self.order][0](number)

    def spec(self) -> RunSpec:
        """Return what is known of the run before its first frame."""
        from tests.stored_frames import run_spec

        return run_spec(
            images=_ORDERS[self.order][1],
            height_px=self.height_px,
            width_px=self.width_px,
            dtype=self.dtype,
        )

    def storage(self) -> StorageConfig:
        """Return how its slices reach the disk."""
        from deepfocus_live.config import StorageConfig

        return StorageConfig.model_validate({"codec": self.codec, "durability": self.durability})


def plan_writer(seed: int) -> WriterPlan:
    """Return the plan of number `seed`: durability, codec and order take turns, the rest is drawn.

    Six in a row have every durability with every codec, and every order.
    """
    chance = random.Random(f"writer {seed}")
    height, width = chance.choice([(20, 30), (20, 30), (130, 601), (512, 512)])
    return WriterPlan(
        durability=("power-loss", "process")[seed % 2],
        codec=("lz4", "zstd", "none")[seed % 3],
        order=list(_ORDERS)[(seed + seed // 6) % len(_ORDERS)],
        height_px=height,
        width_px=width,
        dtype=chance.choice(["uint8", "uint16"]),
        workers=chance.randint(1, 3),
        derived=chance.random() < 0.5,
    )


def write_until_killed(told: Connection, output: Path, plan: WriterPlan, path: Path | None) -> None:
    """Write a new run below `output`, or go on with the one at `path`, for ever.

    Tells `("ready", None)`, `("opened", None)` and `("acknowledged", number)`, each when it is so.
    """
    from deepfocus_live.volume import RunWriter
    from tests.stored_frames import pixels_of, store_frame

    saying = threading.Lock()

    def say(kind: str, value: Any = None) -> None:
        with saying:
            told.send((kind, value))

    say("ready")
    if path is None:
        writer = RunWriter.create(output, plan.spec(), plan.storage(), about={})
    else:
        writer = RunWriter.reopen(path, plan.storage())
    say("opened")
    numbers = itertools.count()
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                number = next(numbers)
            stored = store_frame(writer, number, plan.index(number))
            say("acknowledged", number)
            if plan.derived:
                pixels = pixels_of(number, writer.spec)
                writer.write_pyramid(stored.placement, pixels)
                mask = (pixels > pixels.mean()).astype(np.uint8)
                chance = np.zeros([-(-side // 4) for side in mask.shape], np.uint8)
                writer.write_mask(stored.placement, mask, chance, sequence_number=number)
                writer.write_weak_label(stored.placement, mask, 1 - mask)

    with ThreadPoolExecutor(plan.workers) as pool:
        for working in [pool.submit(work) for _ in range(plan.workers)]:
            working.result()


# --------------------------------------------------------------- a microscope


@dataclass(frozen=True)
class AcquirePlan:
    """An acquisition; made of a seed by `plan_acquisition`."""

    microscope: str
    """`demo` (the C++ DemoCamera), or `simulated` with z stepped by software or by `hardware`."""
    frames: int
    exposure_ms: float
    durability: str
    codec: str
    workers: int
    slots: int | None
    """Of the ring; with few of them a hardware sequence is spilled while a daemon starts."""

    def __str__(self) -> str:
        ring = "" if self.slots is None else f", a ring of {self.slots}"
        return (
            f"{self.microscope}, {self.frames} frames of {self.exposure_ms:.0f} ms, "
            f"{self.durability}, {self.codec}, {self.workers} at once{ring}"
        )


_Z = 5


def plan_acquisition(seed: int, *, seconds: float) -> AcquirePlan:
    """Return the plan of number `seed`, of about so many seconds."""
    chance = random.Random(f"acquisition {seed}")
    exposure_ms = chance.choice([10.0, 25.0, 40.0])
    frames = int(seconds * 1000 / (exposure_ms + 5))
    return AcquirePlan(
        microscope=("demo", "simulated", "hardware")[seed % 3],
        frames=max(frames // _Z, 1) * _Z,
        exposure_ms=exposure_ms,
        durability=chance.choice(["power-loss", "process"]),
        codec=chance.choice(["lz4", "zstd", "none"]),
        workers=chance.randint(1, 3),
        slots=chance.choice([None, 2]),
    )


def digest(pixels: NDArray[Any]) -> str:
    """Return what two images share only if they have one dtype, one shape and the same bytes."""
    head = f"{pixels.dtype.name} {pixels.shape} ".encode()
    return hashlib.sha1(head + pixels.tobytes(), usedforsecurity=False).hexdigest()


def acquire_until_killed(told: Connection, plan: AcquirePlan, config: Path) -> None:
    """Attach, acquire, wait until all is durable and detach; say each when it is so.

    Tells `("core", None)`, `("attached", None)`, `("frame", digest)` of each before it is handed
    over, `("sent", count)` after, `("ran", None)`, `("durable", whether)`, `("detached", status)`.
    """
    import deepfocus_live

    core, sequence = _microscope(plan)

    def before(image: NDArray[Any]) -> None:
        told.send(("frame", digest(image)))

    def after(_: NDArray[Any]) -> None:
        told.send(("sent", attached.status()["frames_sent"]))

    # In order: what is on the disk has been told of, and what is told to be sent is in the ring.
    core.mda.events.frameReady.connect(before)
    told.send(("core", None))
    attached = deepfocus_live.attach(core, config=config)
    told.send(("attached", None))
    core.mda.events.frameReady.connect(after)
    core.run_mda(sequence, block=True)
    told.send(("ran", None))
    told.send(("durable", attached.wait(120)))
    status = attached.status()
    attached.detach()
    told.send(("detached", status))


def _microscope(plan: AcquirePlan) -> tuple[CMMCorePlus, useq.MDASequence]:
    import useq

    if plan.microscope == "demo":
        core = load_demo_camera()
        core.setROI(0, 0, 256, 256)
        core.setExposure(plan.exposure_ms)
        times = {"interval": 0, "loops": plan.frames // _Z}
        plan_z = {"range": _Z - 1, "step": 1}
        return core, useq.MDASequence.model_validate({"time_plan": times, "z_plan": plan_z})
    from deepfocus_live.microscope.simulated import load_simulated_microscope

    rng = np.random.default_rng(0)
    stacks = [rng.integers(0, 4096, (_Z, 64, 80), np.uint16) for _ in range(40)]
    microscope = load_simulated_microscope(stacks, z_step_um=1.0, exposure_ms=plan.exposure_ms)
    sequence = partial(microscope.sequence, max(plan.frames // _Z, 1))
    return microscope.core, sequence(hardware_triggered=plan.microscope == "hardware")


def load_demo_camera(config: Path | None = None) -> CMMCorePlus:
    """Return a core with the C++ DemoCamera, 512 × 512, 16 bit, 5 ms."""
    from pymmcore_plus import CMMCorePlus

    if config is None:
        import mm_test_adapters  # type: ignore[import-untyped]

        config = Path(str(mm_test_adapters.device_adapter_path())) / "MMConfig_demo.cfg"
    core = CMMCorePlus()
    core.setDeviceAdapterSearchPaths([str(config.parent)])
    core.loadSystemConfiguration(str(config))
    core.setProperty("Camera", "PixelType", "16bit")
    core.setExposure(5)
    return core
