"""Logits as probabilities, in double precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Log-probabilities of logits of shape (rows, classes), in double precision."""
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities of labels that do not exclude each other, in double precision; shape as that of the logits."""
    import numpy as np

    return np.asarray(np.exp(-np.logaddexp(0, -logits.astype(np.float64))))
