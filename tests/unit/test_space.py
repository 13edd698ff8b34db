"""The forecast of disk space: before a run, while it grows, on a disk that is too small."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import useq

from deepfocus_live.config import RingConfig
from deepfocus_live.errors import InputError
from deepfocus_live.frames import Placement
from deepfocus_live.microscope import acquire
from deepfocus_live.microscope._sender import FrameSender
from deepfocus_live.ring import MemoryRing, Message
from deepfocus_live.volume import Forecast, RunWriter, SpaceGauge, free_bytes, in_bytes
from tests.small_disk import run_on_small_disk
from tests.stored_frames import QUICK, enter_frame, header_of, run_spec

FITS = Forecast(
    folder=Path("disk"),
    frames_stored=10,
    frames_expected=110,
    bytes_per_frame=1000,
    measured=True,
    bytes_owed=5000,
    bytes_free=206_000,
    bytes_kept=101_000,
    frames_per_s=4.0,
)


@pytest.mark.parametrize(
    ("change", "needed", "fit", "fits"),
    [
        pytest.param({}, 105_000, 100, True, id="to-the-last-byte"),
        pytest.param({"bytes_free": 205_999}, 105_000, 99, False, id="a-byte-short"),
        pytest.param({"bytes_owed": 6000}, 106_000, 99, False, id="masks-owed"),
        pytest.param({"bytes_kept": 0}, 105_000, 201, True, id="nothing-kept"),
        pytest.param({"bytes_kept": 10**9}, 105_000, 0, False, id="all-kept"),
        pytest.param({"frames_stored": 120}, 5000, 100, True, id="longer-than-planned"),
        pytest.param({"frames_expected": None}, None, 100, True, id="unknown-length"),
        pytest.param(
            {"frames_expected": None, "bytes_free": 106_999}, None, 0, False, id="unknown-no-room"
        ),
    ],
)
def test_forecast_says_what_is_needed_and_what_fits(
    change: dict[str, Any], needed: int | None, fit: int, fits: bool
) -> None:
    forecast = replace(FITS, **change)
    assert (forecast.bytes_needed, forecast.frames_fit, forecast.fits()) == (needed, fit, fits)
    assert forecast.full_in_s == fit / 4.0
    assert replace(forecast, frames_per_s=0.0).full_in_s is None


def test_warning_is_one_line_with_what_is_needed_free_and_when_it_is_full() -> None:
    said = replace(FITS, bytes_free=131_000).warning("scan")
    assert said == (
        "run scan: about 105 kB are needed, 131 kB are free on disk, 101 kB of them kept for "
        "others: full after about 35 of 110 frames; make room."
    )
    assert not FITS.fits(margin=0.01)
    unknown = replace(FITS, frames_expected=None, bytes_free=0).warning("scan")
    assert "no more frames fit" in unknown and "None" not in unknown


def test_sizes_are_said_in_the_largest_unit() -> None:
    sizes = (0, 1500, 2.5e6, 350e9, 1.24e12)
    assert [in_bytes(size) for size in sizes] == ["0.0 kB", "1.5 kB", "2.5 MB", "350 GB", "1.2 TB"]


# ---------------------------------------------------------- against real runs


def taken_below(folder: Path) -> int:
    """Return, plainly, what everything below a folder takes on the disk."""
    taken = 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            found = os.lstat(os.path.join(root, name))
            taken += getattr(found, "st_blocks", -(-found.st_size // 4096) * 8) * 512
    return taken


@pytest.mark.parametrize(
    ("codec", "dtype", "mean"),
    [("lz4", "uint16", 1500), ("zstd", "uint8", 60)],
)
def test_reckoning_is_cautious_and_measuring_is_right(
    tmp_path: Path, codec: str, dtype: str, mean: float
) -> None:
    shape, frames = (300, 400), 9
    spec = run_spec(
        height_px=shape[0],
        width_px=shape[1],
        dtype=dtype,
        frames_expected=100,
        images=[{"name": "here", "size_z": 100}],
    )
    writer = RunWriter.create(tmp_path, spec, QUICK.model_copy(update={"codec": codec}), about={})
    gauge = SpaceGauge(spec, codec=codec)
    before = gauge.forecast(writer.path)
    empty = taken_below(writer.path)
    rng = np.random.default_rng(0)
    soft = np.add.outer(np.sin(np.arange(300) / 20), np.cos(np.arange(400) / 30))
    mask = (soft > 0).astype(np.uint8)
    for number in range(frames):
        pixels = np.clip(rng.poisson(mean * (1 + 0.2 * soft)), 0, 255 if dtype == "uint8" else 4095)
        header = header_of(number, height_px=300, width_px=400, dtype=dtype)
        stored = writer.write_frame(header, pixels.astype(dtype))
        enter_frame(writer, header, stored)
        gauge.stored(stored.placement)
        writer.write_pyramid(stored.placement, pixels.astype(dtype))
        probability = rng.integers(0, 255, (75, 100), np.uint8)
        writer.write_mask(stored.placement, mask, probability, sequence_number=number)
        writer.write_weak_label(stored.placement, mask, 1 - mask)
    after = gauge.forecast(writer.path, frames_stored=frames)
    writer.close()
    truth = (taken_below(writer.path) - empty) / frames
    assert (before.measured, after.measured) == (False, True)
    assert truth < before.bytes_per_frame < 2.5 * truth
    assert after.bytes_per_frame == pytest.approx(truth, rel=0.05)
    assert before.bytes_needed == 100 * before.bytes_per_frame
    assert after.bytes_needed == 91 * after.bytes_per_frame


def test_masks_and_labels_that_are_not_made_are_not_reckoned_with() -> None:
    spec = run_spec(height_px=2048, width_px=2048)

    def needed(**made: bool) -> int:
        return SpaceGauge(spec, codec="lz4", **made).forecast(Path()).bytes_per_frame

    assert needed(masks=False, labels=False) < needed(labels=False) < needed()
    assert needed(masks=False) < needed()


def test_few_slices_are_believed_only_where_they_take_more(tmp_path: Path) -> None:
    spec = run_spec(height_px=256, width_px=256, images=[{"name": "here", "size_z": 20}])
    writer = RunWriter.create(tmp_path, spec, QUICK, about={})
    gauge = SpaceGauge(spec, codec="lz4", masks=False, labels=False)
    reckoned = gauge.forecast(writer.path).bytes_per_frame
    known = []
    for number in range(9):
        header = header_of(number, height_px=256, width_px=256)
        # The light is not on yet: such slices pack a hundred times better than those to come.
        stored = writer.write_frame(header, np.zeros((256, 256), np.uint16))
        gauge.stored(stored.placement)
        known.append(gauge.forecast(writer.path).bytes_per_frame)
    writer.close()
    assert known[:7] == 7 * [reckoned]
    assert known[7] < reckoned / 4


def test_rate_is_the_mean_of_the_run_so_far() -> None:
    now = [100.0]
    gauge = SpaceGauge(run_spec(), codec="lz4", clock=lambda: now[0])
    gauge.stored(Placement(0, 0, 0, 0), before=True)
    assert gauge.forecast(Path()).frames_per_s == 0
    for _ in range(3):  # bursts of two slices, each with its pause
        for z in range(2):
            gauge.stored(Placement(0, 0, 0, z))
        now[0] += 10
    assert gauge.forecast(Path()).frames_per_s == pytest.approx(5 / 30)
    ended = gauge.forecast(Path(), frames_stored=3, ended=True)
    assert (ended.bytes_needed, ended.full_in_s) == (0, None)


def test_long_runs_are_sampled_evenly(tmp_path: Path) -> None:
    gauge = SpaceGauge(run_spec(), codec="lz4")
    for t in range(5000):
        gauge.stored(Placement(0, t, 0, 0))
    steps = np.diff([placement.t for placement in gauge._sample])
    assert 16 <= len(gauge._sample) <= 32
    assert set(steps) == {256}
    assert free_bytes(tmp_path / "not" / "made" / "yet") > 0


_SMALL_DISK = """
from pathlib import Path
import numpy as np
import tests.stored_frames as ours
from deepfocus_live.config import Config
from deepfocus_live.daemon._run import ActiveRun, Look
from deepfocus_live.daemon._space import SpaceWatch
from deepfocus_live.errors import DiskFullError
from deepfocus_live.volume import RunWriter

def fill():
    with Path("ballast").open("wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(4096)):
                pass
        except OSError:
            pass

now, told, said = [0.0], [], []
config = Config.model_validate(
    {"output": str(Path("runs").absolute()), "inference": {"enabled": False},
     "storage": {"reserve_mb": 1}, "labels": {"enabled": False}}
)
watch = SpaceWatch(config, on_turn=lambda *news: told.append(news),
                   say=lambda *words: said.append(words), clock=lambda: now[0])
spec = ours.run_spec(height_px=256, width_px=256, frames_expected=25,
                     images=[{"name": "here", "size_z": 60}])

# More than half of the disk is taken: the run is begun, and a warning stands against it.
ballast = Path("ballast")
ballast.write_bytes(bytes(4_000_000))
assert not watch.plan(spec, []).fits()
run = ActiveRun(RunWriter.create(Path("runs"), spec, ours.QUICK, about={}), Look("consensus"))
warning = watch.opened(run, [run])
assert "of 25 frames" in warning and told == [("abc", warning)], (warning, told)
assert [one.text for one in watch.warnings()] == [warning]
assert said == [("warning", warning, spec.name)]
now[0] += 1
ballast.unlink()
watch.look([run])
assert [one.text for one in watch.warnings()] == [warning]  # looked at too short a time ago
now[0] += 2
watch.look([run])
assert watch.warnings() == [] and told[1:] == [("abc", None)], told
# What an open run still needs is not there for the next one.
later = watch.plan(spec.model_copy(update={"run_id": "next"}), [run])
assert later.bytes_kept == (1 << 20) + watch.of(run)["bytes_needed"] and not later.fits(), later

# It goes on; the sample of what was stored says how many more fit, and so many do.
def store(number):
    header = ours.header_of(number, height_px=256, width_px=256)
    pixels = np.random.default_rng(number).poisson(1500, (256, 256)).astype(np.uint16)
    stored = run.writer.write_frame(header, pixels)
    ours.enter_frame(run.writer, header, stored)
    watch.stored(run, stored.placement)
    now[0] += 0.5

for number in range(10):
    store(number)
watch.look([run], now=True)
forecast = watch.of(run)
assert forecast["measured"] and forecast["fits"] and watch.warnings() == [], forecast
assert abs(forecast["full_in_s"] - forecast["frames_fit"] / (9 / 5.0)) < 1, forecast
# The reserve counts for others, not for what has been taken.
fit = forecast["frames_fit"] + (1 << 20) // forecast["bytes_per_frame"]
number = 10
while True:
    try:
        store(number)
    except OSError as error:
        assert error.errno == 28, error
        break
    number += 1
assert abs(number - 10 - fit) <= 0.05 * fit + 2, (number, fit)

# Full before its end (it turned out longer, and is gone on with by a daemon that begins anew to
# measure): it stands again, counted. Another run cannot be begun, and waits.
fill()
again = spec.model_copy(update={"run_id": "later", "name": "later"})
run.spec = run.spec.model_copy(update={"frames_expected": 100})
watch._gauges.clear()
try:
    RunWriter.create(Path("runs"), again, ours.QUICK, about={})
except DiskFullError as error:
    watch.refused(again, str(error))
    watch.refused(again, str(error))
(waits,) = (one for one in watch.warnings() if one.run == "later")
assert "later waits" in waits.text and "Make room" in waits.text and waits.count == 2, waits
assert [level for level, text, run in said if run == "later"] == ["warning"]
assert [path.name for path in Path("runs").iterdir()] == [run.writer.path.name]
watch.look([run], now=True)
assert watch.warnings()[0].count == 2 and told[2][0] == "abc", (watch.warnings(), told)
assert watch.of(run)["measured"] and f"after about {number} of 100 frames" in told[2][1], told
now[0] += 11
assert not [one for one in watch.warnings() if one.run == "later"]
run.ended = True
watch.look([run], now=True)
assert watch.warnings() == []
watch.look([], now=True)
assert watch.of(run) is None
"""


def test_small_disk_is_forecast_warned_of_and_filled_as_forecast(tmp_path: Path) -> None:
    run_on_small_disk(_SMALL_DISK, tmp_path, size_kb=6000)


# ------------------------------------------------- in the microscope's process


class FullDaemon:
    """The other end of the link: has no room for a run the first two times."""

    connected = True
    said_bye = False
    daemon = None

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        self.asked = 0
        self.ring: MemoryRing | None = None
        self.order: list[str] = []

    def ensure(self) -> bool:
        return False

    def send(self, message: Message) -> None:
        self.order.append(message["type"])
        if message["type"] == "begin_run":
            self.asked += 1
            answer: Message = {"type": "answer", "re": "begin_run", "ok": False, "again": True}
            if self.asked > 2:
                self.ring = self.ring or MemoryRing(Path(message["ring"]))
                answer = {"type": "answer", "re": "begin_run", "ok": True, "path": "run"}
                answer["space"] = "run scan: little room"
            self._on_message({"reason": "the disk is full.", **answer})
        elif self.ring is not None:
            for slot, number in message["slots"]:
                self.ring.acknowledge(slot, number)
            self._on_message({"type": "acks"})

    def ask(self, message: Message) -> Message:
        self.order.append(message["type"])
        return {"ok": True}

    def close(self) -> None:
        if self.ring is not None:
            self.ring.close()


def test_frames_wait_in_the_ring_for_room_to_begin_their_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfocus_live.microscope._sender._AGAIN_S", 0.1)
    links: list[FullDaemon] = []

    def make_link(on_message: Callable[[Message], None]) -> Any:
        links.append(FullDaemon(on_message))
        return links[0]

    sender = FrameSender(make_link, RingConfig(slots=2), cast("Any", lambda _: None))
    info = {"height": 20, "width": 30, "dtype": "uint16", "camera_label": "Camera"}
    images = [np.full((20, 30), number, np.uint16) for number in range(5)]
    with caplog.at_level(logging.WARNING):
        sender.begin(useq.MDASequence(), {"image_infos": [info]}, None)
        for number, image in enumerate(images[:4]):  # two more than there are slots
            sender.take(image, useq.MDAEvent(index={"t": number}), {})
        deadline = time.monotonic() + 20
        while sender.frames_durable < 4 and time.monotonic() < deadline:
            if sender.counts.space is not None and "full" in sender.counts.space:
                assert "frames wait in memory" in sender.counts.space
            time.sleep(0.005)
        assert (sender.frames_durable, sender.counts.refused) == (4, 0)
        assert sender.counts.space == "run scan: little room"
        links[0]._on_message({"type": "space", "text": None})
        assert sender.counts.space is None
        sender.end("completed")
        sender.stop()
        assert sender.join(20)
    assert (links[0].asked, links[0].order[-1]) == (3, "end_run")
    assert len([one for one in caplog.messages if "disk is full" in one]) == 1


class UntouchedCore:
    """A core that says when an acquisition is begun."""

    @property
    def mda(self) -> None:
        raise StopIteration("begun")


def test_acquire_refuses_what_does_not_fit_before_the_first_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = acquire.Room("disk", 9, 5, 2, warning="run scan: about 9 kB are needed; make room.")
    monkeypatch.setattr(acquire, "attach", lambda *_, **__: nullcontext())
    monkeypatch.setattr(acquire, "room_for", lambda *_, **__: room)
    core, sequence = cast("Any", UntouchedCore()), useq.MDASequence()
    with pytest.raises(InputError, match=r"9 kB are needed.*Nothing was taken.*--ignore-space"):
        acquire.run(core, sequence)
    with pytest.raises(StopIteration, match="begun"):
        acquire.run(core, sequence, ignore_space=True)
    room = replace(room, warning=None)
    with pytest.raises(StopIteration, match="begun"):
        acquire.run(core, sequence)
