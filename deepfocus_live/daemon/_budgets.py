"""What the daemon may take of this computer: by the configuration, and by what is free at start."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pydantic import BaseModel

from deepfocus_live.config import Config

__all__ = ["Budgets"]

_SHARE = 8
"""A part of the free memory for each of ring, waiting slices and unfinished stacks."""
_LEAST_MB = 16


@dataclass(frozen=True)
class Budgets:
    """Memory in MiB, and threads."""

    free_mb: int
    """What was free at the start."""
    backlog_mb: int
    """Slices that wait for their masks."""
    labels_mb: int
    """What is kept of unfinished stacks."""
    ring_mb: int
    """The ring of each microscope's program that attaches now; it makes it by itself."""
    trainer_mb: int
    """A fine-tune."""
    store_threads: int
    mask_threads: int | None
    """None: one per physical core."""

    @classmethod
    def of(cls, config: Config, free_bytes: int) -> Budgets:
        """Return what may be taken where so much is free.

        What somebody has set stays as it is; of the usual values each is an eighth of the free
        memory at most.
        """
        free_mb = free_bytes >> 20
        most = max(free_mb // _SHARE, _LEAST_MB)

        def usual(section: BaseModel, key: str) -> int:
            value = int(getattr(section, key))
            return value if key in section.model_fields_set else min(value, most)

        ring = config.ring.memory_mb
        return cls(
            free_mb=free_mb,
            backlog_mb=usual(config.inference, "backlog_mb"),
            labels_mb=usual(config.labels, "memory_mb"),
            ring_mb=min(most, 512) if ring is None else ring,
            trainer_mb=config.learning.memory_mb,
            store_threads=config.storage.workers,
            mask_threads=config.inference.threads,
        )

    @property
    def in_words(self) -> str:
        """One line for the log."""
        return (
            f"{self.free_mb} MiB of memory are free: up to {self.backlog_mb} for slices that wait "
            f"for masks, {self.labels_mb} for unfinished stacks, {self.ring_mb} for a ring"
        )

    def as_json(self) -> dict[str, int | None]:
        """Return what `status` says of it."""
        return asdict(self)
