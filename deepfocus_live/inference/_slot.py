"""The model in use, exchanged between two slices, never within one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from deepfocus_live.errors import InputError
from deepfocus_live.inference._engine import EngineError
from deepfocus_live.inference._model import Inference, InFocusModel
from deepfocus_live.model import ModelVersion

__all__ = ["ModelSlot"]

log = logging.getLogger(__name__)


class ModelSlot:
    """Holds the model in use.

    One thread infers, another may swap. A slice that is being worked on is finished by the model
    that began it; the next slice gets the new one.

    Parameters
    ----------
    model : InFocusModel
        The first model in use.
    provider : {"auto", "cpu", "cuda", "openvino"}
    threads : int, optional
    on_change, on_back : callable
        All four as in `InFocusModel.load`, for every model that comes later.
    """

    def __init__(
        self,
        model: InFocusModel,
        *,
        provider: str = "auto",
        threads: int | None = None,
        on_change: Callable[[str], None] = log.warning,
        on_back: Callable[[str], None] = log.info,
    ) -> None:
        self._model = model
        self._provider = provider
        self._threads = threads
        self._on_change, self._on_back = on_change, on_back
        self._swapping = threading.Lock()

    @classmethod
    def open(
        cls,
        version: ModelVersion | Path | str,
        *,
        provider: str = "auto",
        threads: int | None = None,
        on_change: Callable[[str], None] = log.warning,
        on_back: Callable[[str], None] = log.info,
    ) -> ModelSlot:
        """Load the first model in use; see `InFocusModel.load`."""
        model = InFocusModel.load(
            version, provider=provider, threads=threads, on_change=on_change, on_back=on_back
        )
        return cls(model, provider=provider, threads=threads, on_change=on_change, on_back=on_back)

    @property
    def model(self) -> InFocusModel:
        """The model in use now."""
        return self._model

    def infer(self, z_slice: NDArray[Any]) -> tuple[Inference, str]:
        """Return what the model in use says of a slice, and that model's version.

        Slice and errors are those of `InFocusModel.infer`.
        """
        model = self._model  # one look: the whole slice is this model's
        return model.infer(z_slice), model.version

    def swap(self, candidate: ModelVersion | Path | str, shape: Sequence[int]) -> InFocusModel:
        """Load and warm a model beside the one in use, then put it in its place.

        Takes as long as loading does; inference goes on meanwhile.

        Parameters
        ----------
        candidate : ModelVersion or path
            As of `InFocusModel.load`.
        shape : (Y, X)
            Of the slices to come.

        Returns
        -------
        InFocusModel
            The model now in use.

        Raises
        ------
        InputError
            If the new model cannot be used; the old one stays.
        """
        with self._swapping:
            model = self.load_beside(candidate, shape)
            self._model = model
        return model

    def load_beside(
        self, candidate: ModelVersion | Path | str, shape: Sequence[int]
    ) -> InFocusModel:
        """Load and warm a model beside the one in use, for `put`; as `swap` does."""
        model = InFocusModel.load(
            candidate,
            provider=self._provider,
            threads=self._threads,
            shape=shape,
            on_change=self._on_change,
            on_back=self._on_back,
        )
        try:
            model.warm_up(shape)
        except EngineError as error:
            raise InputError(f"model {model.version} does not run here: {error}") from error
        return model

    def put(self, model: InFocusModel) -> None:
        """Put a model that `load_beside` returned in the place of the one in use."""
        self._model = model
