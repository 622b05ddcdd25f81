"""What every backend keeps to, as checks of one loaded model.

The tests of the built-in backends run them, and so does ``unimodel plugin test`` on a model of yours. `CHECKS` has them
in the order in which they are run.
"""

from engine.kit.contract import every, generation, speech, steps, tensors, values
from engine.kit.contract.model import Broken, Check, Model

CHECKS: tuple[Check, ...] = (
    *every.CHECKS,
    *tensors.CHECKS,
    *values.CHECKS,
    *steps.CHECKS,
    *generation.CHECKS,
    *speech.CHECKS,
    *every.LAST,
)

__all__ = ["CHECKS", "Broken", "Check", "Model", "every", "generation", "speech", "steps", "tensors", "values"]
