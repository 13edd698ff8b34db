"""A session at a simulated microscope: one stack after the other, and what is learnt between them.

Everything is real but the microscope: a daemon with models of its own, its trainer, its gate. Each
stack is a run of its own; where a fine-tune is due after a stack, the next one is taken when that
has ended, as in a time series with long intervals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import useq

from deepfocus_live.evaluation import iou
from deepfocus_live.microscope import Attachment, attach
from deepfocus_live.microscope.simulated import SimulatedMicroscope, load_simulated_microscope
from deepfocus_live.model import Registry
from deepfocus_live.ring import DaemonAddress, private_daemon
from deepfocus_live.simulation import FocalStack
from deepfocus_live.volume import open_run

__all__ = ["FineTune", "Session", "TakenStack", "open_session"]

_PROFILE = "default"
_LEAST_IN_FOCUS = 0.005
"""Share of a slice's decided pixels: with less an IoU means nothing; as `evaluation` counts."""
_PATIENCE_S = 900.0
_LOOK_S = 0.1
_QUIET_S = 1.2
"""A daemon looks at what there is to learn twice a second."""


@dataclass(frozen=True)
class TakenStack:
    """What became of one stack.

    Attributes
    ----------
    number : int
        In the session, from 0.
    models : tuple of str
        Versions that made its masks.
    agreement : float or None
        Of its masks with its weak labels, 0..1; None where neither says anything.
    truth : float
        Mean IoU of its masks with the true ones, 0..1, over the slices in which at least 0.5 % of
        the decided pixels are in focus.
    why_not : str or None
        Why nothing is learnt from it.
    """

    number: int
    models: tuple[str, ...]
    agreement: float | None
    truth: float
    why_not: str | None


@dataclass(frozen=True)
class FineTune:
    """A fine-tune that has ended.

    Attributes
    ----------
    version : str or None
        Its candidate; None: it made none.
    after : int
        How many stacks had been taken.
    gate : str
        "passed", or why not.
    taken_back : bool
    """

    version: str | None
    after: int
    gate: str
    taken_back: bool = False

    @property
    def passed(self) -> bool:
        """Whether the gate let it pass."""
        return self.gate == "passed"


class Session:
    """A microscope, attached to a daemon. Made by `open_session`.

    Parameters
    ----------
    daemon : DaemonAddress
    attached : Attachment
    microscope : SimulatedMicroscope
        Stack k lies in field k.
    truths : sequence of FocalStack
        What the microscope plays.
    models : Path
        Folder of the daemon's models.
    after_stacks : int
        What the daemon's `learning.after_stacks` is.
    """

    def __init__(
        self,
        daemon: DaemonAddress,
        attached: Attachment,
        microscope: SimulatedMicroscope,
        truths: Sequence[FocalStack],
        models: Path,
        after_stacks: int,
    ) -> None:
        self.daemon = daemon
        self.attached = attached
        self.registry = Registry(models)
        self.stacks: list[TakenStack] = []
        self._fine_tunes: list[FineTune] = []
        self._microscope = microscope
        self._truths = truths
        self._after_stacks = after_stacks

    def take(self) -> TakenStack:
        """Take the next stack, and wait until it has its masks, its labels and its judgement."""
        number = len(self.stacks)
        sequence = self._microscope.sequence(len(self._truths), as_="position")
        alone = sequence.model_copy(update={"stage_positions": (sequence.stage_positions[number],)})
        self.acquire(alone)
        self.stacks.append(_taken(number, self.attached, self._truths[number]))
        return self.stacks[-1]

    def repeated(self, times: int) -> useq.MDASequence:
        """Return the sequence that takes the stacks, which must have the same planes, in turns."""
        return self._microscope.sequence(times, as_="time")

    def acquire(self, sequence: useq.MDASequence) -> dict[str, Any]:
        """Acquire, wait until nothing is left to do, and return the daemon's status then."""
        self._microscope.core.mda.run(sequence)
        self.attached.wait()
        return self._until(lambda status: status["run"] is None, "made all masks and labels")

    def settle(self, tell: Callable[[dict[str, Any]], object] = lambda _: None) -> None:
        """Wait until no fine-tune is due or under way, and no model waits for its turn.

        Meanwhile `tell` is called with the daemon's status, some times a second.
        """
        if not self._learns(self.status()):
            return
        quiet_since = time.monotonic()

        def settled(status: dict[str, Any]) -> bool:
            nonlocal quiet_since
            tell(status)
            if self._learns(status):
                quiet_since = time.monotonic()
            return time.monotonic() - quiet_since > _QUIET_S

        status = self._until(settled, "ended its fine-tune")
        [profile] = status["learning"]["profiles"]
        self._note_fine_tune(str(profile["decision"]))

    def fine_tune(self) -> None:
        """Ask for a fine-tune."""
        with self.daemon.connect() as client:
            answer = client.ask({"type": "retrain", "profile": _PROFILE})
        if not answer["ok"]:
            raise RuntimeError(f"the daemon does not fine-tune: {answer['reason']}")

    def status(self) -> dict[str, Any]:
        """Return the daemon's status."""
        with self.daemon.connect() as client:
            status: dict[str, Any] = client.ask({"type": "status"})["status"]
        return status

    @property
    def training(self) -> bool:
        """Whether a fine-tune runs."""
        return bool(self.status()["learning"]["trainer"]["running"])

    @property
    def current(self) -> str:
        """Name of the model in use."""
        return self.registry.current_name(_PROFILE)

    @property
    def fine_tunes(self) -> list[FineTune]:
        """Those that have ended, and which of their versions were taken back."""
        [profile] = self.status()["learning"]["profiles"]
        back = profile["taken_back"]
        return [
            FineTune(one.version, one.after, one.gate, one.version in back)
            for one in self._fine_tunes
        ]

    def _learns(self, status: dict[str, Any]) -> bool:
        learning = status["learning"]
        [profile] = learning["profiles"]
        # While a model is watched the next fine-tune waits: for stacks, which are still to come.
        due = 0 < self._after_stacks <= profile["stacks_since"] and profile["watched"] is None
        # A model that a person is to swap in waits for them: nothing more comes of it.
        goes_in = profile["waiting"] and learning["swap"] != "manual"
        return bool(learning["trainer"]["running"] or due or goes_in)

    def _note_fine_tune(self, decision: str) -> None:
        known = {one.version for one in self._fine_tunes}
        made = [version for version in self.registry.versions() if version.name not in known]
        after = len(self.stacks)
        fresh = [
            FineTune(version.name, after, str(version.card["metrics"]["gate"]))
            for version in made
            if version.card.get("profile") == _PROFILE
        ]
        self._fine_tunes += fresh or [FineTune(None, after, decision)]

    def _until(self, done: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            status = self.status()
            if done(status):
                return status
            time.sleep(_LOOK_S)
        raise RuntimeError(f"the daemon has not {what} within {_PATIENCE_S:.0f} s")


@contextmanager
def open_session(
    folder: Path,
    truths: Sequence[FocalStack],
    *,
    learning: dict[str, Any],
    program: Sequence[str] = ("deepfocus_live",),
    output: Path | None = None,
    exposure_ms: float = 1.0,
) -> Iterator[Session]:
    """Within this context there is a microscope with these stacks, attached to a daemon.

    Parameters
    ----------
    folder : Path
        For runs, models and all else.
    truths : sequence of FocalStack
        Of one height and width.
    learning : dict
        The configuration's `learning`.
    program : sequence of str
        As of `deepfocus_live.ring.private_daemon`.
    output : Path, optional
        For the runs; below `folder` by default.
    exposure_ms : float
        Of the camera, >= 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "session.yaml"
    # JSON is YAML, too.
    config.write_text(json.dumps({"learning": learning}), encoding="utf-8")
    with private_daemon(folder, "--config", str(config), program=program) as daemon:
        microscope = load_simulated_microscope(
            [stack.slices for stack in truths],
            z_um=[stack.z_um for stack in truths],
            exposure_ms=exposure_ms,
        )
        try:
            with attach(microscope.core, output=output or folder / "runs") as attached:
                after = int(learning.get("after_stacks", 0))
                yield Session(daemon, attached, microscope, truths, folder / "models", after)
                if attached.status()["restarts"]:
                    raise RuntimeError("the daemon was restarted meanwhile: the session is void")
        finally:
            microscope.close()


def _taken(number: int, attached: Attachment, truth: FocalStack) -> TakenStack:
    run = open_run(attached.status()["runs"][-1])
    [line] = [line for line in run.journal if line["kind"] == "agreement"]
    masks = run.images[0].in_focus
    scores = []
    for z, (in_focus, undecided) in enumerate(zip(truth.in_focus, truth.undecided, strict=True)):
        known = ~undecided
        if known.any() and in_focus[known].mean() >= _LEAST_IN_FOCUS:
            scores.append(iou(np.asarray(masks[0, 0, z]) != 0, in_focus, known))
    return TakenStack(
        number=number,
        models=tuple(line["models"]),
        agreement=line["iou"],
        truth=float(np.mean(scores)) if scores else float("nan"),
        why_not=line["why_not"],
    )
