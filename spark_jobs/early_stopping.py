"""When a training has learnt all that it will, judged by the validation loss. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class EarlyStopping:
    """The best epoch so far, from 1, and whether it lies more than `patience` epochs back; None never stops."""

    patience: int | None
    best_epoch: int = 0
    best_loss: float = float("inf")

    def after(self, epoch: int, loss: float) -> EarlyStopping:
        """The state after an epoch with this validation loss."""
        return replace(self, best_epoch=epoch, best_loss=loss) if loss < self.best_loss else self

    def stops_after(self, epoch: int) -> bool:
        """Whether `epoch` is the last one."""
        return self.patience is not None and epoch - self.best_epoch >= self.patience
