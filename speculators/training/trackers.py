"""Who follows a training on request: TensorBoard, Weights & Biases, MLflow.

Each is imported when it is asked for, and told the training's settings and figures: no source, nothing of
the environment.  What they need to reach a server (an API key, an address) they look up there themselves;
nothing of it passes through here.  Without such an address they write into the stage's folder, where
nothing has to be reached: stages have no network in containers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speculators.errors import MachineError
from speculators.training.metrics import Tracker

PROJECT = "speculators"
Settings = Mapping[str, Any]


class TensorBoard:
    """Event files.  What an interrupted attempt wrote beyond ``step`` is taken back."""

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```", step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of W&B: offline in ``folder`` (for ``wandb sync``) unless ``WANDB_MODE`` says otherwise."""

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        import wandb

        quiet = wandb.Settings(
            console="off", silent=True, save_code=False, disable_code=True, disable_git=True,
            disable_job_creation=True, x_disable_meta=True, x_disable_stats=True, x_disable_machine_info=True,
            host="", username="", email="",
        )  # fmt: skip
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=str(folder),
            config={**settings, "first_step": step},
            settings=quiet,
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of MLflow, on the server that ``MLFLOW_TRACKING_URI`` names, else in files in ``folder``."""

    def __init__(self, folder: Path, settings: Settings, step: int) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the only store that the small package has
        self.metric = Metric
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or folder.absolute().as_uri())
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.run = self.client.create_run(place, tags={"first_step": str(step)}).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in settings.items()]
        self.client.log_batch(self.run, params=params)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        metrics = [self.metric(name, value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.run)


#: By the name in ``training.trackers``.
KINDS: Mapping[str, Callable[[Path, Settings, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def open_trackers(names: Sequence[str], folder: Path, settings: Settings, step: int) -> list[Tracker]:
    """The trackers called ``names``, each with a folder of its own below ``folder``.

    Args:
        settings: what the training was asked for, flat.
        step: the last step that is done already.

    Raises:
        MachineError: a package is missing, or a server is not there.
    """
    opened: list[Tracker] = []
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        try:
            opened.append(KINDS[name](folder / name, settings, step))
        except ImportError as error:
            raise MachineError(
                f"training.trackers names {name}, whose package is not here ({error})",
                hint=f"pip install 'speculators[{name}]', or leave it out of training.trackers",
                rule="tracker",
            ) from error
        except Exception as error:  # whatever a tracker and its server can come to
            raise MachineError(
                f"tracker {name} cannot start: {type(error).__name__}: {error}",
                hint="see to its server and its environment variables, or leave it out of training.trackers",
                rule="tracker",
            ) from error
    return opened
