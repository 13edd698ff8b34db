"""What comes back to the microscope's program, from a real daemon and its real network."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq

from deepfocus_live import Run, open_run
from deepfocus_live.errors import InputError
from deepfocus_live.microscope import Attachment, MaskResult, StackResult, _sender, attach
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope
from deepfocus_live.ring import leftover_rings, private_daemon
from deepfocus_live.simulation import demo_stack

N_SLICES = 7
BEYOND_UM = 1000.0
"""Where the simulated camera shows the last plane still: not a place that a scan was at."""


class Bench:
    """A simulated microscope with a specimen and an empty field, attached; and what came back."""

    def __init__(self, output: Path) -> None:
        specimen = demo_stack(shape=(N_SLICES, 192, 192))
        empty = np.full_like(specimen.slices, 1000)
        self.z_um = [float(z) for z in specimen.z_um]
        self.microscope: SimulatedMicroscope = load_simulated_microscope(
            [specimen.slices, empty], z_um=[specimen.z_um] * 2, exposure_ms=2
        )
        self.core = self.microscope.core
        self.attached: Attachment = attach(self.core, output=output, follow_live=True)
        self.output = output
        self.masks: list[MaskResult] = []
        self.stacks: list[StackResult] = []
        self.attached.on_mask(self.masks.append)
        self.attached.on_stack(self.stacks.append)

    def run(self, sequence: Any) -> Run:
        """Run a sequence, and return its run when all that it has to say has come back."""
        self.masks.clear()
        self.stacks.clear()
        self.core.mda.run(sequence)
        assert self.attached.wait(30)
        run = open_run(self.attached.status()["runs"][-1])
        self.attached._stacks.last_of(run.spec.run_id, time.monotonic() + 30)
        # Every result is in the queue to the callbacks now; this one comes after them all.
        last: Any = object()
        self.attached._events.put(("stack", last))
        until = time.monotonic() + 10
        while last not in self.stacks and time.monotonic() < until:
            time.sleep(0.01)
        self.stacks.remove(last)
        return run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("back")
    config = folder / "config.yaml"
    config.write_text("labels: {enabled: false}\nstorage: {durability: process}\n", "utf-8")
    with private_daemon(folder, "--config", str(config)):
        bench = Bench(folder / "here")
        yield bench
        bench.attached.detach()
        assert not leftover_rings()
        assert not bench.core.events.continuousSequenceAcquisitionStarted._slots


def test_live_masks_are_those_of_what_is_seen_and_nothing_is_stored(bench: Bench) -> None:
    core, z = bench.core, 3
    core.setZPosition(bench.z_um[z])
    core.startContinuousSequenceAcquisition(0)
    until = time.monotonic() + 10
    while len(bench.masks) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    begun, before = time.monotonic(), len(bench.masks)
    time.sleep(0.5)
    most = 1 + (time.monotonic() - begun) / 0.1
    assert bench.attached.status()["live"]
    assert len(bench.masks) - before <= most + 1
    core.stopSequenceAcquisition()
    left = [core.popNextImageAndMD()[1] for _ in range(core.getRemainingImageCount())]
    # The user's own program finds every frame.
    assert [int(frame["ImageNumber"]) for frame in left] == list(range(len(left)))
    until = time.monotonic() + 5
    while bench.attached.status()["live"] and time.monotonic() < until:
        time.sleep(0.01)
    assert not bench.attached.status()["live"]
    live = list(bench.masks)
    assert all(mask.live and mask.run_id is None and mask.placement is None for mask in live)
    assert [mask.sequence_number for mask in live] == list(range(len(live)))
    assert bench.attached.latest_mask() is live[-1]
    assert (bench.attached.status()["frames_taken"], bench.attached.status()["runs"]) == (0, [])
    assert not list(bench.output.iterdir())

    run = bench.run(bench.microscope.sequence(1))
    stored = np.asarray(run.images[0].in_focus[0, 0, z])
    assert stored.any()
    np.testing.assert_array_equal(live[-1].mask, stored)
    assert not any(mask.live for mask in bench.masks)


def test_status_tells_what_the_daemon_does_and_how_many_masks_there_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sender, "_MOST_RUNS", 1)

    def wait_for(key: str, value: object) -> None:
        until = time.monotonic() + 10  # it is as old as the last heartbeat
        while bench.attached.status()[key] != value:
            assert time.monotonic() < until, bench.attached.status()
            time.sleep(0.02)

    wait_for("state", "ready")
    before = bench.attached.status()["frames_masked"]
    run = bench.run(useq.MDASequence(z_plan={"absolute": bench.z_um}))
    wait_for("frames_masked", before + N_SLICES)
    # Another run: the first is no longer remembered, what it had counts all the same.
    bench.run(useq.MDASequence(z_plan={"absolute": bench.z_um}))
    wait_for("frames_masked", before + 2 * N_SLICES)
    assert bench.attached.status()["frames_durable"] >= N_SLICES
    assert len([line for line in run.journal if line["kind"] == "mask"]) == N_SLICES
    wait_for("state", "ready")


def test_a_stacks_result_is_what_its_masks_say(bench: Bench) -> None:
    run = bench.run(bench.microscope.sequence(2))
    specimen, empty = sorted(bench.stacks, key=lambda found: found.key.t)
    shares = np.asarray(run.images[0].in_focus[0, 0]).mean(axis=(1, 2))
    assert specimen.in_focus_fraction == pytest.approx(shares, abs=1e-6)
    assert specimen.z_um == tuple(bench.z_um)
    assert specimen.best_z == shares.argmax()
    assert specimen.focus_reached
    chances = np.asarray(run.images[0].probability[0, 0]).mean(axis=(1, 2)) / 255
    assert specimen.focus_score == pytest.approx(chances, abs=1e-6)
    assert (empty.best_z, empty.best_z_um, empty.focus_reached) == (None, None, False)
    by_place = {mask.placement: mask for mask in bench.masks}
    assert len(by_place) == len(bench.masks) == 2 * N_SLICES
    for place, mask in by_place.items():
        assert place is not None and mask.z_um == bench.z_um[place.z]

    # The last stack has nothing in focus: there is no place to go to. The first has.
    bench.core.setZPosition(BEYOND_UM)
    with pytest.raises(InputError, match=r"nothing is in focus in .* \(t 1, c 0\)"):
        bench.attached.move_to_best_focus()
    assert bench.core.getZPosition() == BEYOND_UM
    assert bench.attached.move_to_best_focus(specimen) == specimen.best_z_um
    assert bench.core.getZPosition() == specimen.best_z_um


def test_the_stage_moves_when_the_acquisition_is_over_and_never_on_its_thread(
    bench: Bench,
) -> None:
    attached, core = bench.attached, bench.core
    refused: list[str] = []
    moved: list[float] = []

    def within(_image: object, event: useq.MDAEvent) -> None:
        if event.index["z"] == 2:
            with pytest.raises(InputError) as error:
                attached.move_to_best_focus(timeout_s=5)
            refused.append(str(error.value))

    def meanwhile() -> None:
        with pytest.raises(InputError) as error:
            attached.move_to_best_focus(timeout_s=0.05)
        refused.append(str(error.value))
        moved.append(attached.move_to_best_focus(timeout_s=30))

    def when_started() -> None:
        threads.append(threading.Thread(target=meanwhile))
        threads[0].start()

    threads: list[threading.Thread] = []
    core.setExposure(100)
    core.mda.events.frameReady.connect(within)
    core.mda.events.sequenceStarted.connect(when_started)
    bench.run(bench.microscope.sequence(1))
    core.mda.events.frameReady.disconnect(within)
    core.mda.events.sequenceStarted.disconnect(when_started)
    core.setExposure(2)
    threads[0].join(30)
    assert sorted(line.split(":")[0] for line in refused) == [
        "an acquisition is under way",
        "move_to_best_focus was called on the acquisition's own thread, whose end it waits for",
    ]
    (found,) = bench.stacks
    assert moved == [found.best_z_um] == [core.getZPosition()]
    attached._focus_device = "Piezo"
    with pytest.raises(InputError, match="'Z' now and was 'Piezo' during"):
        attached.move_to_best_focus()


def test_stacks_that_were_cut_off_or_not_planned_have_a_result_too(bench: Bench) -> None:
    def cancel(_image: object, event: useq.MDAEvent) -> None:
        if event.index["z"] == 4:
            bench.core.mda.cancel()

    bench.core.mda.events.frameReady.connect(cancel)
    bench.run(bench.microscope.sequence(1))
    bench.core.mda.events.frameReady.disconnect(cancel)
    (cut,) = bench.stacks
    assert [share is not None for share in cut.in_focus_fraction] == [True] * 5 + [False] * 2
    assert cut.best_z == np.argmax([share or 0 for share in cut.in_focus_fraction])

    heights = bench.z_um[2:5]

    def as_it_comes() -> Iterator[useq.MDAEvent]:
        for t in (0, 1):
            for z, z_um in enumerate(heights):
                yield useq.MDAEvent(index={"t": t, "z": z}, z_pos=z_um)

    bench.run(as_it_comes())
    told = sorted(bench.stacks, key=lambda found: found.key.t)
    assert [(found.key.t, found.z_um) for found in told] == [
        (0, tuple(heights)),
        (1, tuple(heights)),
    ]
    assert not any(None in found.in_focus_fraction for found in told)
