"""What runs in the process of Ray Train's controller.

Ray Train comes here without the processes that our runs have no use for: each takes seconds to start and 0.2 GB.
"""

from __future__ import annotations

from typing import Any

from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from typing_extensions import override

from rayconvai.errors import RayconvaiError
from rayconvai.train.line import deaths

_Trainer: Any = TorchTrainer  # its types are those of Train's first version


class LeanTrainer(_Trainer):  # type: ignore[misc]
    """Starts no process for Ray Data, which we do not use; none that frees the workers' room when Train's controller
    dies, which works on clusters with a dashboard only, and which the launcher does; and none that tells an autoscaler
    of workers whose number is fixed: it sees that they wait."""

    @override
    def _create_default_callbacks(self) -> list[Any]:
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        return [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in unused]

    @override
    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        if type(settings["scaling_policy"]) is FixedScalingPolicy:
            settings["scaling_policy"] = _Unannounced(settings["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**settings)


class _Unannounced(FixedScalingPolicy):
    @override
    def after_controller_start(self, train_run_context: Any) -> None: ...

    @override
    def _maybe_send_resource_request(self) -> None: ...


class Failures(UserCallback):
    """Says how workers died. An error that would come again ends the run at once, where Train would start it again."""

    def __init__(self, line: Any) -> None:
        self.line = line

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, RayconvaiError):
                raise error
        self.line.add.remote("died", deaths(worker_exceptions))
