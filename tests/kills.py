"""Kill a process at a moment drawn by lot, and judge what it left.

Every judge returns what it found wrong, a line each: nothing found is nothing lost. What happens
follows from a number; the moment, by its nature, only nearly so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from deepfocus_live.ring import (
    DaemonAddress,
    MemoryRing,
    RingError,
    find_daemon,
    leftover_rings,
    leftover_spills,
    private_daemon,
    start_daemon,
)
from deepfocus_live.volume import RunWriter, open_run, read_journal, read_ledger, verify_run
from tests.ome_zarr import assert_run_is_valid
from tests.stored_frames import pixels_of, store_frame
from tests.until_killed import (
    WriterPlan,
    acquire_until_killed,
    digest,
    plan_acquisition,
    plan_writer,
    write_until_killed,
)

__all__ = [
    "Child",
    "Kill",
    "Trial",
    "judge_going_on",
    "judge_written",
    "kill_both",
    "kill_daemon",
    "kill_microscope",
    "kill_writer",
    "set_clock",
    "turn_read_only",
]

_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Kill:
    """One process killed."""

    who: str
    moment: str
    acknowledged: int
    """Frames that had been acknowledged to somebody, or were in the ring, by then."""


@dataclass
class Trial:
    """What was done, the kills in it, and what was found wrong afterwards."""

    plan: str
    kills: list[Kill] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no loss, and still worth a word."""
    slices: int = 0
    """Slices on the disk that were compared byte by byte."""


class Child:
    """A fresh interpreter that runs `target(told, *arguments)`; what it tells is kept."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        _start_quiet_tracker()
        spawn = multiprocessing.get_context("spawn")
        self._told, theirs = spawn.Pipe(duplex=False)
        self._said: list[tuple[str, Any]] = []
        self._changed = threading.Condition()
        self.process: BaseProcess = spawn.Process(target=target, args=(theirs, *arguments))
        self.process.start()
        # The only other end is the child's: when it dies, the pipe ends.
        theirs.close()
        self._reader = threading.Thread(target=self._read, args=(self._told,), daemon=True)
        self._reader.start()

    def _read(self, told: Connection) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                said = told.recv()
                with self._changed:
                    self._said.append(said)
                    self._changed.notify_all()

    def told(self, kind: str) -> list[Any]:
        """Return everything of one kind that it has said so far."""
        with self._changed:
            return [value for what, value in self._said if what == kind]

    def wait_for(self, kind: str, count: int = 1, *, patience_s: float = _PATIENCE_S) -> bool:
        """Wait until it has said this so often; return whether it has before it ended."""
        deadline = time.monotonic() + patience_s
        while len(self.told(kind)) < count and time.monotonic() < deadline:
            if not self._reader.is_alive():
                return len(self.told(kind)) >= count
            with self._changed:
                self._changed.wait(0.05)
        return len(self.told(kind)) >= count

    def kill(self) -> None:
        """End it at once, and read what it had said."""
        self.process.kill()
        self.process.join(30)
        self._reader.join(30)
        self._told.close()

    def end(self, patience_s: float) -> bool:
        """Wait until it ends by itself; else kill it. Return whether it did, without an error."""
        self.process.join(patience_s)
        well = self.process.exitcode == 0
        self.kill()
        return well


def _start_quiet_tracker() -> None:
    """Start what frees the locks of killed processes; that there are some is no news here."""
    if sys.platform == "win32":
        return
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


# ------------------------------------------------------------------- a writer


def kill_writer(folder: Path, seed: int, *, lives: int | None = None) -> Trial:
    """Kill a run's writer, and (drawn by lot, else as `lives` says) those that go on with it."""
    plan = plan_writer(seed)
    chance = random.Random(f"kill writer {seed}")
    trial = Trial(str(plan))
    acknowledged: set[int] = set()
    path: Path | None = None
    number_of_lives = chance.choice([1, 1, 2, 3]) if lives is None else lives
    for _ in range(number_of_lives):
        # What goes on with a run first recognises what is there.
        least = len(acknowledged)
        child = Child(write_until_killed, folder, plan, path)
        moment = _wait_for_a_moment(child, chance, least)
        child.kill()
        acknowledged |= set(child.told("acknowledged"))
        trial.kills.append(Kill("writer", moment, len(acknowledged)))
        found = [made for made in folder.iterdir() if not made.name.startswith(".")]
        if not found:
            if acknowledged or child.told("opened"):
                trial.faults.append("the run is gone")
                break
            continue
        path = found[0]
        trial.faults += judge_written(path, acknowledged)
    if path is not None and not trial.faults:
        trial.faults += judge_going_on(path, plan, acknowledged)
        trial.slices = len(read_ledger(path).frames)
    return trial


def _wait_for_a_moment(child: Child, chance: random.Random, least: int) -> str:
    """Wait for a moment between the first thing that a writer does and some way on."""
    if not child.wait_for("ready"):
        raise RuntimeError("a writer ended before it began")
    kind = chance.choice(["begin", "acknowledged", "acknowledged", "acknowledged"])
    later_s = chance.uniform(0, 0.4 if kind == "begin" else 0.05)
    count = least + chance.randint(1, 40)
    if kind == "acknowledged" and not child.wait_for("acknowledged", count):
        raise RuntimeError(f"a writer ended by itself, or stood still, before frame {count}")
    time.sleep(later_s)
    since = "its begin" if kind == "begin" else f"{count} acknowledged"
    return f"{1000 * later_s:.1f} ms after {since}"


def judge_written(path: Path, acknowledged: set[int], *, growing: bool = True) -> list[str]:
    """Return what is wrong with a run as a killed writer left it, perhaps while it grew."""
    ledger = read_ledger(path)
    faults = [f"line {number} of the journal is damaged" for number in ledger.damaged_lines]
    if ledger.missing and acknowledged:
        faults.append("there is no journal")
    faults += [f"slice {n} was acknowledged and is lost" for n in acknowledged - set(ledger.frames)]
    places = Counter(place for place, _ in ledger.frames.values())
    faults += [f"{place} is named {count} times" for place, count in places.items() if count > 1]
    faults += _refused_by_validators(path, growing=growing)
    images = open_run(path).images
    torn = set()
    for number, (place, _) in ledger.frames.items():
        wanted = pixels_of(number, ledger.spec)
        try:
            whole = np.array_equal(np.asarray(images[place.image].image[place[1:]]), wanted)
        except Exception as error:  # decoders raise nearly anything
            faults.append(f"slice {number} cannot be read: {error}")
        else:
            if not whole:
                torn.add(number)
    faults += [f"slice {number} is torn, or another's" for number in sorted(torn)]
    verified = verify_run(ledger)
    if {fault.sequence_number for fault in verified.faults} != torn:
        faults.append(f"verify sees {verified.faults}, and torn are {sorted(torn)}")
    if verified.slices != len(ledger.frames):
        faults.append(f"verify counts {verified.slices} slices, the journal {len(ledger.frames)}")
    return faults


def judge_going_on(path: Path, plan: WriterPlan, acknowledged: set[int]) -> list[str]:
    """Let the next writer go on with the run to its end; return what is wrong with it then."""
    before = set(read_ledger(path).frames)
    writer = RunWriter.reopen(path, plan.storage())
    faults = []
    try:
        if set(writer.durable_placements()) != before:
            faults.append("the next writer knows of other slices than the journal")
        last = max(before, default=-1) + 3
        for number in range(last + 1):
            stored = store_frame(writer, number, plan.index(number))
            if stored.duplicate != (number in before):
                faults.append(f"slice {number}, sent again, was not recognised for what it is")
        writer.end("completed")
    finally:
        writer.close()
    everything = set(range(last + 1))
    faults += judge_written(path, acknowledged | everything, growing=False)
    lines = list(read_journal(path / "frames.jsonl"))
    numbers = Counter(line["sequence_number"] for line in lines if line["kind"] == "frame")
    if numbers != Counter(everything):
        faults.append(f"the journal does not name each slice once: {numbers - Counter(everything)}")
    epochs = [line["epoch"] for line in lines if line["kind"] == "open"]
    if epochs != sorted(set(epochs)):
        faults.append(f"writers did not follow each other: {epochs}")
    if open_run(path).state != "completed":
        faults.append(f"the run reads as {open_run(path).state}")
    return faults


def _refused_by_validators(path: Path, *, growing: bool = False) -> list[str]:
    try:
        assert_run_is_valid(path, growing=growing)
    except Exception as error:
        return [f"not valid OME-Zarr: {type(error).__name__}: {' '.join(str(error).split())[:300]}"]
    return []


# ------------------------------------------------------ daemon and microscope


def kill_daemon(folder: Path, seed: int) -> Trial:
    """Kill the daemon several times in one acquisition, and those that replace it."""
    chance = random.Random(f"kill daemon {seed}")
    kills = chance.randint(2, 5)
    plan = plan_acquisition(seed, seconds=2.0 + 0.8 * kills)
    trial = Trial(str(plan))
    with _daemon(folder, plan) as first:
        child = Child(acquire_until_killed, plan, folder / "config.yaml")
        try:
            if not child.wait_for("attached"):
                raise RuntimeError("the microscope could not attach")
            moments = [chance.choice(["running", "running", "any", "end"]) for _ in range(kills)]
            for kind in sorted(moments, key="end".__eq__):
                _kill_one_daemon(child, kind, chance, trial)
            if not child.wait_for("detached"):
                trial.faults.append("it was not all durable after two minutes")
            elif child.told("detached")[0]["frames_spilled"]:
                trial.notes.append(f"{child.told('detached')[0]['frames_spilled']} were spilled")
            ended_well = child.end(10)
            if not ended_well:
                trial.faults.append("the microscope's process did not end by itself, or in error")
        finally:
            child.kill()
        if not trial.faults:
            if find_daemon() is None:
                # Killed when the microscope had let go: the next to come starts it.
                trial.notes.append("the last one was killed when nobody was there to replace it")
                start_daemon(first.arguments)
            _wait_for_rest(trial)
            _judge_runs(folder, child, trial, least=len(child.told("frame")), complete=True)
    _judge_leftovers(folder, trial)
    return trial


def _kill_one_daemon(child: Child, kind: str, chance: random.Random, trial: Trial) -> None:
    begin = time.monotonic()
    later_s = chance.uniform(0, {"running": 1.5, "any": 6.0, "end": 1.0}[kind])
    if kind == "end" and not child.wait_for("ran"):
        return
    victim: psutil.Process | None = None
    while victim is None and time.monotonic() - begin < _PATIENCE_S:
        address = find_daemon()
        if address is not None or kind == "any":
            time.sleep(later_s)
            later_s = 0.05
            address = find_daemon()
            if address is not None:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim = psutil.Process(address.pid)
            elif kind == "any":
                victim = _starting_daemon(child)
        else:
            time.sleep(0.02)
        if child.told("detached"):
            return
    if victim is None:
        return
    state = "starting" if find_daemon() is None else "running"
    with contextlib.suppress(psutil.NoSuchProcess):
        victim.kill()
    ran = ", the acquisition over" if child.told("ran") else ""
    frames = len(child.told("frame"))
    moment = f"{state}, {time.monotonic() - begin:.2f} s on, at frame {frames}{ran}"
    trial.kills.append(Kill("daemon", moment, max(child.told("sent"), default=0)))
    with contextlib.suppress(psutil.Error):
        victim.wait(0.5)


def _starting_daemon(child: Child) -> psutil.Process | None:
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(child.process.pid).children():
            if "deepfocus_live" in process.cmdline():
                return process
    return None


def kill_microscope(folder: Path, seed: int) -> Trial:
    """Kill the microscope's process; the daemon stores what is in the ring and closes the run."""
    chance = random.Random(f"kill microscope {seed}")
    plan = plan_acquisition(seed, seconds=60.0)
    trial = Trial(str(plan))
    with _daemon(folder, plan):
        child = Child(acquire_until_killed, plan, folder / "config.yaml")
        try:
            moment = _moment_of_microscope(child, chance)
        finally:
            child.kill()
        least = max(child.told("sent"), default=0)
        trial.kills.append(Kill("microscope", moment, least))
        _wait_for_no_rings(trial)
        _wait_for_rest(trial)
        _judge_runs(folder, child, trial, least=least, complete=False)
    _judge_leftovers(folder, trial)
    return trial


def _moment_of_microscope(child: Child, chance: random.Random) -> str:
    kind = chance.choice(["attach", "frame", "frame", "frame", "frame"])
    count = chance.randint(1, 80)
    later_s = chance.uniform(0, 0.6 if kind == "attach" else 0.05)
    if not child.wait_for(
        "core" if kind == "attach" else "frame", 1 if kind == "attach" else count
    ):
        raise RuntimeError("the microscope ended by itself, or stood still")
    time.sleep(later_s)
    since = "after it began to attach" if kind == "attach" else f"after {count} frames"
    return f"{1000 * later_s:.1f} ms {since}"


def kill_both(folder: Path, seed: int) -> Trial:
    """Kill the daemon and the microscope's process; the next daemon drains the ring."""
    chance = random.Random(f"kill both {seed}")
    plan = plan_acquisition(seed, seconds=60.0)
    trial = Trial(str(plan))
    with _daemon(folder, plan) as address:
        child = Child(acquire_until_killed, plan, folder / "config.yaml")
        gap_s = chance.choice([0.0, 0.0, chance.uniform(0, 0.05), chance.uniform(0, 2.0)])
        daemon_first = chance.random() < 0.7
        try:
            moment = _moment_of_microscope(child, chance)
            if daemon_first:
                address.stamp.kill()
                time.sleep(gap_s)
        finally:
            child.kill()
        # One that its sender had begun to start ends too: there must be nobody.
        for process in _processes_of(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)
        in_ring = _frames_in_rings(trial)
        order = "daemon first" if daemon_first else "microscope first"
        least = max([*child.told("sent"), 1 + max(in_ring, default=-1)], default=0)
        trial.kills.append(Kill("both", f"{moment}, {order}, {len(in_ring)} in the ring", least))
        start_daemon(address.arguments)
        _wait_for_no_rings(trial)
        _wait_for_rest(trial)
        _judge_runs(folder, child, trial, least=least, complete=False)
    _judge_leftovers(folder, trial)
    return trial


def _frames_in_rings(trial: Trial) -> set[int]:
    found: set[int] = set()
    for path in leftover_rings():
        try:
            ring = MemoryRing(path)
        except (OSError, RingError) as error:
            trial.notes.append(f"killed while it made its ring: {error}")
            continue
        found |= {number for _, number in ring.waiting()}
        ring.close()
    return found


@contextlib.contextmanager
def _daemon(folder: Path, plan: Any) -> Iterator[DaemonAddress]:
    settings = folder / "config.yaml"
    settings.write_text(
        f"storage:\n  durability: {plan.durability}\n  codec: {plan.codec}\n"
        f"  workers: {plan.workers}\nring:\n  slots: {plan.slots or 'null'}\n",
        encoding="utf-8",
    )
    with private_daemon(folder, "--config", str(settings)) as address:
        try:
            yield address
        finally:
            left = [*leftover_rings(), *leftover_spills()]
            (folder / "rings").write_text(str(len(left)), encoding="utf-8")
            for path in left:
                # What is wrong is told; the memory is needed for the next.
                with contextlib.suppress(OSError):
                    path.unlink()


def _wait_for_no_rings(trial: Trial) -> None:
    deadline = time.monotonic() + 60
    while [*leftover_rings(), *leftover_spills()] and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [*leftover_rings(), *leftover_spills()]
    trial.faults += [f"a ring was left over: {path.name}" for path in left]


def _wait_for_rest(trial: Trial, *, patience_s: float = 60.0) -> None:
    """Wait until the daemon has made everything that it owes."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        address = find_daemon()
        if address is not None:
            with contextlib.suppress(OSError), address.connect() as client:
                status = client.ask({"type": "status"})["status"]
                if status["run"] is None and status["state"] != "catching-up":
                    return
        time.sleep(0.05)
    trial.faults.append(f"the run was not closed after {patience_s:.0f} s")


def _judge_runs(folder: Path, child: Child, trial: Trial, *, least: int, complete: bool) -> None:
    """Hold all that is on the disk to what the camera delivered."""
    taken: list[str] = child.told("frame")
    stored: Counter[int] = Counter()
    made = sorted((folder / "runs").iterdir())
    trial.notes += [f"{path.name} was left half-made" for path in made if path.name[0] == "."]
    runs = [path for path in made if path.name[0] != "."]
    for path in runs:
        trial.faults += _refused_by_validators(path)
        ledger, run = read_ledger(path), open_run(path)
        if not verify_run(ledger).whole:
            trial.faults.append(f"verify says {verify_run(ledger)}")
        for number, (place, _) in ledger.frames.items():
            stored[number] += 1
            pixels = np.asarray(run.images[place.image].image[place[1:]])
            if number >= len(taken) or digest(pixels) != taken[number]:
                trial.faults.append(f"slice {number} is not what the camera delivered")
        if not ledger.frames and len(runs) > 1:
            trial.notes.append(f"{path.name} is empty, beside {len(runs) - 1} other")
        reads_as = ("completed",) if complete and ledger.frames else ("completed", "interrupted")
        if (reads_as if complete else ("interrupted",)).count(run.state) == 0:
            trial.faults.append(f"{path.name} reads as {run.state}")
        _judge_masks(path, trial)
    trial.slices = len(stored)
    count = len(taken) if complete else max(least, len(stored))
    missing = sorted(set(range(count)) - set(stored))
    if missing:
        trial.faults.append(f"{len(missing)} of {count} frames are lost: {missing[:10]}")
    trial.faults += [
        f"frame {n} is stored {count} times" for n, count in stored.items() if count > 1
    ]


def _judge_masks(path: Path, trial: Trial) -> None:
    lines = list(read_journal(path / "frames.jsonl"))
    of = {
        kind: Counter(line["sequence_number"] for line in lines if line["kind"] == kind)
        for kind in ("frame", "mask")
    }
    if of["frame"] != of["mask"]:
        missing, twice = of["frame"] - of["mask"], of["mask"] - of["frame"]
        trial.faults.append(
            f"masks of {path.name}: missing {sorted(missing)[:10]}, again {sorted(twice)[:10]}"
        )


def _judge_leftovers(folder: Path, trial: Trial) -> None:
    left = int((folder / "rings").read_text(encoding="utf-8"))
    if left and not any("ring was left" in fault for fault in trial.faults):
        trial.faults.append(f"{left} rings were left over")
    for process in _processes_of(folder):
        trial.faults.append(f"a process was left over: {process}")
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Return the daemons and trainers that work below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        named = any(str(folder) in part for part in process.info["cmdline"] or [])
        if named and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


# ---------------------------------------------------------- disk and clock

_SMALL_DISK_KB = 32_768


def turn_read_only(folder: Path, seed: int) -> Trial:
    """Mount the disk read-only in the middle of a run, twice, and writable again."""
    from tests.small_disk import run_on_small_disk

    trial = Trial(str(plan_writer(seed)))
    script = (
        "import json\n"
        "from tests.read_only import go_through_read_only\n"
        f"print(json.dumps(go_through_read_only({seed})))"
    )
    said = run_on_small_disk(script, folder, size_kb=_SMALL_DISK_KB)
    trial.slices, trial.faults = json.loads(said.splitlines()[-1])
    return trial


_CLOCK = """
import os, time

_file, _time = os.environ["DEEPFOCUS_LIVE_TEST_CLOCK"], time.time

def _set_on():
    with open(_file) as file:
        return float(file.read())

time.time = lambda: _time() + _set_on()
try:
    import psutil._pslinux as system
except ImportError:
    pass
else:
    _boot_time = system.boot_time
    # The kernel keeps the time since its start; the time of its start follows the clock.
    system.boot_time = lambda: _boot_time() + _set_on()
"""


def set_clock(folder: Path, seed: int) -> Trial:
    """Set the clock in the middle of an acquisition; of some, kill the daemon afterwards."""
    chance = random.Random(f"clock {seed}")
    plan = plan_acquisition(seed, seconds=4.0)
    on_s = chance.choice([-86400.0, -3600.0, -30.0, -2.0, 3600.0])
    trial = Trial(f"{plan}; the clock set by {on_s:+.0f} s")
    clock = folder / "clock"
    clock.write_text("0", encoding="utf-8")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(_CLOCK, encoding="utf-8")
    path = os.pathsep.join([str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"DEEPFOCUS_LIVE_TEST_CLOCK": str(clock), "PYTHONPATH": path}
    with _environment(environment), _daemon(folder, plan):
        child = Child(acquire_until_killed, plan, folder / "config.yaml")
        try:
            if not child.wait_for("frame", chance.randint(5, plan.frames // 2)):
                raise RuntimeError("the microscope ended by itself, or stood still")
            (folder / "clock.new").write_text(str(on_s), encoding="utf-8")
            (folder / "clock.new").replace(clock)
            if chance.random() < 0.5:
                _kill_one_daemon(child, "running", chance, trial)
            if not child.wait_for("detached"):
                trial.faults.append("it was not all durable after two minutes")
            elif child.told("detached")[0]["restarts"] != len(trial.kills):
                trial.faults.append(f"daemons started: {child.told('detached')[0]['restarts']}")
        finally:
            child.kill()
        _wait_for_rest(trial)
        _judge_runs(folder, child, trial, least=len(child.told("frame")), complete=True)
        trial.faults += [] if _jumps(folder, on_s) else ["the clock was not set at all"]
    _judge_leftovers(folder, trial)
    return trial


def _jumps(folder: Path, on_s: float) -> bool:
    """Whether the times of the slices jump by what the clock was set by."""
    taken = {}
    for path in (folder / "runs").glob("[!.]*"):
        for line in read_journal(path / "frames.jsonl"):
            if line["kind"] == "frame":
                taken[line["sequence_number"]] = line["taken_at"]
    times = [taken[number] for number in sorted(taken)]
    steps = [after - before for before, after in itertools.pairwise(times)]
    return any(abs(step - on_s) < 1.5 for step in steps)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
