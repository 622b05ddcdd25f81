"""What a model's speed has been. Feeds the predicted wait (admission) and the gathering of batches."""

from __future__ import annotations

_WEIGHT = 0.2
"""Of the newest batch in the moving averages."""


class Speed:
    """Moving averages over a model's batches."""

    def __init__(self) -> None:
        self.compute_seconds = 0.0
        """Of one batch."""
        self.seconds_per_row = 0.0
        self.rows_per_batch = 0.0

    def record(self, rows: int, seconds: float) -> None:
        """Takes in one finished batch."""
        per_row = seconds / max(1, rows)
        if not self.rows_per_batch:
            self.compute_seconds, self.seconds_per_row, self.rows_per_batch = seconds, per_row, float(rows)
            return
        self.compute_seconds += _WEIGHT * (seconds - self.compute_seconds)
        self.seconds_per_row += _WEIGHT * (per_row - self.seconds_per_row)
        self.rows_per_batch += _WEIGHT * (rows - self.rows_per_batch)
