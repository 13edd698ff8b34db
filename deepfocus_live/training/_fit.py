"""The training loop: Adam down a cosine, judged as it goes, the best state kept."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepfocus_live.model.network import FocusNetwork
from deepfocus_live.training._batches import BatchMaker
from deepfocus_live.training._loss import focus_loss
from deepfocus_live.training._precision import Precision

__all__ = ["Checkpoint", "FitResult", "FitState", "fit", "never_held"]

_LEAST_GAIN = 1e-4  # of the score: less than that is no gain
_BLENDS = (0.75, 0.5, 0.25)  # how far to go from the first weights to the last
_MOST_FOR_BLENDS = 0.25  # of the time
_EARLIEST_STOP = 0.5  # share of the work before which training never stops by itself


@dataclass(frozen=True)
class Checkpoint:
    """One look at the network while it learns.

    Attributes
    ----------
    step : int
        Training steps before it.
    loss : float
        Mean since the last look.
    score : float
        What `judge` returned; higher is better.
    """

    step: int
    loss: float
    score: float


@dataclass(frozen=True)
class FitResult:
    """What training did.

    Attributes
    ----------
    steps : int
        Done, those before a resume included.
    start_score, best_score : float
        What `judge` returned before the first step, and for the weights that were kept.
    best_step : int
        After how many steps those were taken; 0: training gained nothing.
    best_blend : float
        How far they are on the way from the first weights to those of that step, 0..1.
    checkpoints : list of Checkpoint
        Every look at the network.
    stopped_early : bool
        Whether it ended before its limit, as nothing was gained any more.
    """

    steps: int
    start_score: float
    best_score: float
    best_step: int
    checkpoints: list[Checkpoint] = field(default_factory=list)
    stopped_early: bool = False
    best_blend: float = 1.0


@dataclass(frozen=True)
class FitState:
    """All that is needed to go on with a fit after a kill.

    Attributes
    ----------
    weights, best_weights : dict of tensors
        As of `FocusNetwork.state_dict`.
    optimizer : dict
        As of `torch.optim.Adam.state_dict`.
    step, best_step : int
    start_score, best_score : float
    elapsed_s : float
        Of the fit alone.
    checkpoints : list of Checkpoint
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    elapsed_s: float
    best_weights: dict[str, Tensor]
    start_score: float
    best_score: float
    best_step: int
    checkpoints: list[Checkpoint]


def never_held() -> float:
    """Return that training may go on, and always might."""
    return 0.0


def fit(
    network: FocusNetwork,
    batches: BatchMaker,
    *,
    judge: Callable[[FocusNetwork], float],
    learning_rate: float,
    precision: Precision,
    max_steps: int | None = None,
    deadline: float | None = None,
    looks: int = 8,
    patience: int | None = None,
    on_checkpoint: Callable[[Checkpoint, float], None] = lambda *_: None,
    resume: FitState | None = None,
    save: Callable[[FitState], None] | None = None,
    save_every_s: float = 20.0,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = focus_loss,
    hold: Callable[[], float] = never_held,
    blend: bool = False,
) -> FitResult:
    """Train `network` in place, where it lies, and leave it with the weights that scored best.

    By Adam [KingmaBa2015]_, its rate falling along half a cosine [LoshchilovHutter2017]_ without
    restarts. Fine-tuned weights averaged with those before keep more of what was known
    [Wortsman2022]_; `blend` has such averages judged too.

    Parameters
    ----------
    network : FocusNetwork
        On the device that is to train.
    batches : BatchMaker
        What is learnt from.
    judge : callable
        Scores the network in evaluation mode, higher is better. Called before the first step, so
        that training which only does harm changes nothing.
    learning_rate : float
        At the start; falls along half a cosine to nothing at the end.
    precision : Precision
        Number format of a step.
    max_steps : int, optional
        Steps after which the loop ends.
    deadline : float, optional
        `time.monotonic()` by which the loop has ended, the last look included. At least one of the
        two limits must be given.
    looks : int
        How often to judge on the way; less often where that would take a fifth of the time.
    patience : int, optional
        Stop when this many looks in a row have not gained on the best, at half the work at the
        earliest. By default never.
    on_checkpoint : callable
        Called with each checkpoint and the share of the work that is done.
    resume : FitState, optional
        Go on from there.
    save : callable, optional
        Called with the state after the first look, then every `save_every_s` seconds, and when
        the loop ends.
    loss : callable
        Of logits, target and how much each place counts, (N, h, w) float32 each; returns a scalar.
    hold : callable
        Called before each step. It returns when training may go on, and for how many seconds it
        had to wait: they are not counted. What it raises ends the training, its state saved.
    blend : bool
        At the end also judge weights between those that `network` came with and the last ones. Not
        where that would take a quarter of the time.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError
        If neither of the two limits is given.

    References
    ----------
    .. [KingmaBa2015] Kingma and Ba (2015), arXiv:1412.6980.
    .. [LoshchilovHutter2017] Loshchilov and Hutter (2017), arXiv:1608.03983.
    .. [Wortsman2022] Wortsman et al. (2022), Robust fine-tuning of zero-shot models,
       arXiv:2109.01903.
    """
    clock = _Clock(max_steps, deadline)
    blends = _BLENDS if blend else ()
    return _Fit(network, batches, judge, learning_rate, precision, loss, clock, resume, blends).run(
        looks, patience, on_checkpoint, _Saver(save, save_every_s), hold
    )


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        network: FocusNetwork,
        batches: BatchMaker,
        judge: Callable[[FocusNetwork], float],
        learning_rate: float,
        precision: Precision,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        clock: _Clock,
        resume: FitState | None,
        blends: Sequence[float],
    ) -> None:
        self._network = network
        self._batches = batches
        self._judge = judge
        self._learning_rate = learning_rate
        self._precision = precision
        self._loss = loss
        self._clock = clock
        self._device = next(network.parameters()).device
        self._optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self._losses: list[float] = []
        self._first = _copy(network) if blends else {}
        self._blends = blends
        if resume is None:
            self._step, self._checkpoints = 0, list[Checkpoint]()
            self._start_score = self._look()
            self._best = _Best(_copy(network), self._start_score, 0)
        else:
            network.load_state_dict(resume.weights)
            self._optimizer.load_state_dict(resume.optimizer)
            self._step, self._checkpoints = resume.step, list(resume.checkpoints)
            self._start_score = resume.start_score
            self._best = _Best(dict(resume.best_weights), resume.best_score, resume.best_step)
            clock.back(resume.elapsed_s)
        if not clock.keep_looks(len(blends)):
            self._blends = ()

    def run(
        self,
        looks: int,
        patience: int | None,
        on_checkpoint: Callable[[Checkpoint, float], None],
        saver: _Saver,
        hold: Callable[[], float],
    ) -> FitResult:
        """Train until the time or the steps are over, or nothing is gained any more."""
        clock, stopped = self._clock, False
        while not stopped and not clock.over(self._step):
            self._wait(hold, saver)
            self._train()
            due = len(self._checkpoints) + 1
            if clock.over(self._step) or clock.share(self._step) * clock.looks(looks) >= due:
                score = self._look()
                self._best.offer(self._network, score, self._step)
                loss = sum(self._losses) / len(self._losses)
                self._checkpoints.append(Checkpoint(self._step, loss, score))
                self._losses.clear()
                on_checkpoint(self._checkpoints[-1], clock.share(self._step))
                stopped = self._gains_nothing(patience) and not clock.over(self._step)
            if self._checkpoints and saver.due():
                saver.save(self._state())
        if self._step and saver.wanted:
            saver.save(self._state())
        if self._step:
            self._judge_blends()
        self._best.restore(self._network)
        return FitResult(
            self._step,
            self._start_score,
            self._best.score,
            self._best.step,
            self._checkpoints,
            stopped,
            self._best.blend,
        )

    def _wait(self, hold: Callable[[], float], saver: _Saver) -> None:
        """Wait until a step may be done; save what was learnt if there is to be none."""
        try:
            self._clock.stand_still(hold())
        except BaseException:
            if self._step and saver.wanted:
                saver.save(self._state())
            raise

    def _train(self) -> None:
        """Do one step."""
        done = self._clock.share(self._step)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        self._network.train()
        batch = self._batches.draw().to(self._device)
        features = self._network.features(batch.counts)
        with self._precision.autocast(self._device.type):
            logits = self._network.unet(features)
        loss = self._loss(logits[:, 0].float(), batch.target, batch.known)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._losses.append(float(loss.detach()))
        self._step += 1

    def _look(self) -> float:
        began = time.monotonic()
        score = self._judge(self._network.eval())
        self._clock.look_s = max(self._clock.look_s, time.monotonic() - began)
        return score

    def _judge_blends(self) -> None:
        last = _copy(self._network)
        for share in self._blends:
            self._network.load_state_dict(_between(self._first, last, share))
            self._best.offer(self._network, self._look(), self._step, share)

    def _gains_nothing(self, patience: int | None) -> bool:
        if patience is None or self._clock.share(self._step) < _EARLIEST_STOP:
            return False
        return self._best.looks_without_gain >= patience

    def _state(self) -> FitState:
        return FitState(
            weights=_copy(self._network),
            optimizer=copy.deepcopy(self._optimizer.state_dict()),
            step=self._step,
            elapsed_s=self._clock.elapsed_s(),
            best_weights=self._best.weights,
            start_score=self._start_score,
            best_score=self._best.score,
            best_step=self._best.step,
            checkpoints=list(self._checkpoints),
        )


class _Clock:
    """Tells how far along the work is, by steps or by time, whichever is further."""

    def __init__(self, max_steps: int | None, deadline: float | None) -> None:
        if max_steps is None and deadline is None:
            raise ValueError("fit needs max_steps, a deadline, or both")
        self._max_steps = max_steps
        self._deadline = deadline
        self._began = time.monotonic()
        self._looks_kept = 1
        self.look_s = 0.0

    def back(self, elapsed_s: float) -> None:
        """Reckon with time that an earlier process has spent already."""
        self._began -= elapsed_s

    def stand_still(self, seconds: float) -> None:
        """Take time that was waited as not gone by."""
        self._began += seconds
        if self._deadline is not None:
            self._deadline += seconds

    def keep_looks(self, count: int) -> bool:
        """Leave time for some looks after the last one; return False if that is too much."""
        if self._deadline is not None:
            if count * self.look_s > _MOST_FOR_BLENDS * (self._deadline - self._began):
                return False
            self._looks_kept += count
        return True

    def elapsed_s(self) -> float:
        """Return for how long training has gone on."""
        return time.monotonic() - self._began

    def share(self, step: int) -> float:
        """Return how much of the work is done, 0..1."""
        by_steps = 0.0 if self._max_steps is None else step / max(self._max_steps, 1)
        if self._deadline is None:
            return min(by_steps, 1.0)
        total = max(self._deadline - self._looks_kept * self.look_s - self._began, 1e-9)
        return min(max(by_steps, (time.monotonic() - self._began) / total), 1.0)

    def looks(self, wanted: int) -> int:
        """Return how often a look can be afforded."""
        if self._deadline is None:
            return wanted
        affordable = 0.2 * (self._deadline - self._began) / max(self.look_s, 1e-9)
        return max(1, min(wanted, int(affordable)))

    def over(self, step: int) -> bool:
        """Return whether the work is done."""
        return self.share(step) >= 1.0


class _Best:
    """The best weights so far."""

    def __init__(self, weights: dict[str, Tensor], score: float, step: int) -> None:
        self.weights, self.score, self.step = weights, score, step
        self.blend = 1.0
        self.looks_without_gain = 0

    def offer(self, network: FocusNetwork, score: float, step: int, blend: float = 1.0) -> None:
        """Take the network's weights if they are better."""
        gains = score > self.score + _LEAST_GAIN
        self.looks_without_gain = 0 if gains else self.looks_without_gain + 1
        # Of equals the later one: it has seen more.
        if score >= self.score:
            self.score, self.step, self.weights = score, step, _copy(network)
            self.blend = blend

    def restore(self, network: FocusNetwork) -> None:
        """Give the best weights back to the network."""
        network.load_state_dict(self.weights)
        network.eval()


class _Saver:
    """Decides when the state is saved: at once when there is something to save, then seldom."""

    def __init__(self, save: Callable[[FitState], None] | None, every_s: float) -> None:
        self._save = save
        self._every_s = every_s
        self._next = 0.0

    @property
    def wanted(self) -> bool:
        """Whether anybody wants the state."""
        return self._save is not None

    def due(self) -> bool:
        """Return whether it is time."""
        return self.wanted and time.monotonic() >= self._next

    def save(self, state: FitState) -> None:
        """Save, and wait for as long as it should be until the next time."""
        if self._save is not None:
            self._save(state)
            self._next = time.monotonic() + self._every_s


def _between(first: dict[str, Tensor], last: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    return {
        key: torch.lerp(first[key], value, share) if value.is_floating_point() else value
        for key, value in last.items()
    }


def _copy(network: FocusNetwork) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
