"""The tasks of a rollout: open it at 0 %, step the traffic on evidence, close it whatever happened; and people's hand.

Wire them so: open → smoke test → canary → close, with close as the teardown of the task before open.
"""

from ml_lifecycle.kserve.operators.canary import CanaryOperator
from ml_lifecycle.kserve.operators.close_rollout import CloseRolloutOperator
from ml_lifecycle.kserve.operators.open_rollout import OpenRolloutOperator
from ml_lifecycle.kserve.operators.roll_back import RollBackOperator
from ml_lifecycle.kserve.operators.steer_rollout import SteerRolloutOperator
from ml_lifecycle.kserve.operators.sweep_rollouts import SweepRolloutsOperator

__all__ = [
    "CanaryOperator",
    "CloseRolloutOperator",
    "OpenRolloutOperator",
    "RollBackOperator",
    "SteerRolloutOperator",
    "SweepRolloutsOperator",
]
