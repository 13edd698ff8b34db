"""Adam in a few lines: creating torch's own imports its compiler, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Adam", "AdamState"]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class AdamState:
    """Steps done, and the running means of gradients and of their squares, by parameter."""

    step: int
    means: list[Tensor]
    squares: list[Tensor]


class Adam:
    """Updates parameters by their gradients; equal to `torch.optim.Adam` with its defaults.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._step = 0

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Move every parameter that has a gradient."""
        self._step += 1
        first = 1.0 - _BETA_1**self._step
        second = (1.0 - _BETA_2**self._step) ** 0.5
        for parameter, mean, square in zip(
            self._parameters, self._means, self._squares, strict=True
        ):
            if parameter.grad is not None:
                mean.lerp_(parameter.grad, 1.0 - _BETA_1)
                square.mul_(_BETA_2).addcmul_(parameter.grad, parameter.grad, value=1.0 - _BETA_2)
                spread = (square.sqrt() / second).add_(_EPSILON)
                parameter.addcdiv_(mean, spread, value=-learning_rate / first)

    def state(self) -> AdamState:
        """Return a copy of what it remembers."""
        return AdamState(
            self._step, [mean.clone() for mean in self._means], [s.clone() for s in self._squares]
        )

    def load(self, state: AdamState) -> None:
        """Remember what another one did; its parameters must have the same shapes."""
        self._step = state.step
        pairs = zip([*self._means, *self._squares], [*state.means, *state.squares], strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
