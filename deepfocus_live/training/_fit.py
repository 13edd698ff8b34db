"""The training loop: Adam down a cosine, judged as it goes, the best state kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deepfocus_live.model.network import FocusNetwork
from deepfocus_live.training._batches import BatchMaker
from deepfocus_live.training._loss import focus_loss
from deepfocus_live.training._precision import Precision

__all__ = ["Checkpoint", "FitResult", "fit"]


@dataclass(frozen=True)
class Checkpoint:
    """One look at the network while it learns.

    Attributes
    ----------
    step : int
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
    """What training did: steps done, the best score, and every look at the network."""

    steps: int
    best_score: float
    best_step: int
    checkpoints: list[Checkpoint] = field(default_factory=list)


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
    on_checkpoint: Callable[[Checkpoint, float], None] = lambda *_: None,
) -> FitResult:
    """Train `network` in place and leave it with the weights that scored best.

    Parameters
    ----------
    network : FocusNetwork
    batches : BatchMaker
    judge : callable
        Scores the network in evaluation mode, higher is better. Called before the first step, so
        that training which only does harm changes nothing.
    learning_rate : float
        At the start; falls along half a cosine to nothing at the end.
    precision : Precision
    max_steps : int, optional
    deadline : float, optional
        `time.monotonic()` by which the loop has ended, the last look included. At least one of the
        two limits must be given.
    looks : int
        How often to judge on the way; less often where that would take a fifth of the time.
    on_checkpoint : callable
        Called with each checkpoint and the share of the work that is done.

    Returns
    -------
    FitResult
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    clock = _Clock(max_steps, deadline)
    began = time.monotonic()
    best = _Best(network, judge(network.eval()))
    clock.look_s = time.monotonic() - began
    checkpoints: list[Checkpoint] = []
    losses: list[float] = []
    step = 0
    while not clock.over(step):
        done = clock.share(step)
        optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))
        losses.append(_step(network, batches, optimizer, precision))
        step += 1
        if clock.over(step) or clock.share(step) * clock.looks(looks) >= len(checkpoints) + 1:
            began = time.monotonic()
            score = judge(network.eval())
            clock.look_s = max(clock.look_s, time.monotonic() - began)
            best.offer(network, score, step)
            checkpoints.append(Checkpoint(step, sum(losses) / len(losses), score))
            losses.clear()
            on_checkpoint(checkpoints[-1], clock.share(step))
    best.restore(network)
    return FitResult(step, best.score, best.step, checkpoints)


def _step(
    network: FocusNetwork,
    batches: BatchMaker,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
) -> float:
    network.train()
    batch = batches.draw()
    features = network.features(batch.counts)
    with precision.autocast():
        logits = network.unet(features)
    loss = focus_loss(logits[:, 0].float(), batch.target, batch.known)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


class _Clock:
    """Tells how far along the work is, by steps or by time, whichever is further."""

    def __init__(self, max_steps: int | None, deadline: float | None) -> None:
        if max_steps is None and deadline is None:
            raise ValueError("fit needs max_steps, a deadline, or both")
        self._max_steps = max_steps
        self._deadline = deadline
        self._began = time.monotonic()
        self.look_s = 0.0

    def share(self, step: int) -> float:
        by_steps = 0.0 if self._max_steps is None else step / max(self._max_steps, 1)
        if self._deadline is None:
            return min(by_steps, 1.0)
        total = max(self._deadline - self.look_s - self._began, 1e-9)
        return min(max(by_steps, (time.monotonic() - self._began) / total), 1.0)

    def looks(self, wanted: int) -> int:
        if self._deadline is None:
            return wanted
        affordable = 0.2 * (self._deadline - self._began) / max(self.look_s, 1e-9)
        return max(1, min(wanted, int(affordable)))

    def over(self, step: int) -> bool:
        return self.share(step) >= 1.0


class _Best:
    """The best weights so far."""

    def __init__(self, network: FocusNetwork, score: float) -> None:
        self.score, self.step = score, 0
        self._state = _copy(network)

    def offer(self, network: FocusNetwork, score: float, step: int) -> None:
        # Of equals the later one: it has seen more.
        if score >= self.score:
            self.score, self.step, self._state = score, step, _copy(network)

    def restore(self, network: FocusNetwork) -> None:
        network.load_state_dict(self._state)
        network.eval()


def _copy(network: FocusNetwork) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
