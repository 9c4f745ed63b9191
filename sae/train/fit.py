"""The training loop: sae-lens' steps on our rows, with a history and snapshots, and no pickled state."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hooked.progress import bar
from sae.library import library
from sae.train.calibrate import calibrate_threshold
from sae.train.config import BATCHED
from sae.train.rows import Standard, TrainingRows

# Points of a history, about.
_POINTS = 100
# Rows that thresholds are calibrated on.
CALIBRATED = 1 << 14

Log = Callable[[Mapping[str, float]], object]


@dataclass(frozen=True)
class Step:
    """A point of the history, measured on one batch.

    Args:
        step: Steps done.
        loss: What is minimised, in units of standardised activations.
        fvu: Fraction of variance unexplained.
        l0: Latents per token.
        dead: Share of latents that have not fired for a while.
        lr: Learning rate.
    """

    step: int
    loss: float
    fvu: float
    l0: float
    dead: float
    lr: float


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Args:
        steps: Batches.
        lr: Learning rate; it falls to zero over the last fifth of the steps.
        dead_after: Steps without firing after which a latent counts as dead.
        snapshots: Numbers of steps done at which there is one.
    """

    steps: int
    lr: float
    dead_after: int
    snapshots: tuple[int, ...] = ()


def fit(
    sae: Any,
    rows: TrainingRows,
    schedule: Schedule,
    *,
    standard: Standard | None,
    snapshot: Callable[[int, Any], None],
    show: bool,
    log: Log | None,
) -> tuple[Any, tuple[Step, ...]]:
    """Train an SAE and return it for inference on raw activations, with the history.

    Args:
        sae: A training SAE of sae-lens; changed.
        rows: What it is trained on.
        schedule: How long.
        standard: What standardises the rows; None for raw rows.
        snapshot: Called with the number of steps and an inference SAE.
        show: Whether to show a bar.
        log: Called with every point of the history.
    """
    config = library("sae_lens.config").SAETrainerConfig(
        total_training_samples=schedule.steps * rows.batch_size,
        train_batch_size_samples=rows.batch_size,
        lr=schedule.lr,
        lr_end=schedule.lr,
        lr_decay_steps=schedule.steps // 5,
        dead_feature_window=schedule.dead_after,
        # Its window only feeds wandb.
        feature_sampling_window=schedule.steps + 1,
        device=rows.device,
    )
    history: list[Step] = []
    each = max(1, schedule.steps // _POINTS)
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        bar(schedule.steps, what=rows.site.name, unit=" steps", show=show) as shown,
    ):
        trainer = library().SAETrainer(cfg=config, sae=sae, data_provider=iter(()))
        for step, batch in enumerate(islice(rows, schedule.steps), 1):
            output = trainer.step(batch if standard is None else standard(batch))
            trainer.n_training_steps += 1
            shown.update(1)
            if step % each == 0 or step == schedule.steps:
                point = _point(trainer, output, step)
                history.append(point)
                shown.note(f"FVU {point.fvu:.3f}, L0 {point.l0:.1f}, dead {point.dead:.0%}")
                if log is not None:
                    log({f"{rows.site.name}/{name}": value for name, value in asdict(point).items()})
            if step in schedule.snapshots:
                snapshot(step, inference(deepcopy(sae), rows, standard))
    return inference(sae, rows, standard), tuple(history)


def inference(sae: Any, rows: TrainingRows, standard: Standard | None) -> Any:
    """Turn a training SAE into one for inference on raw activations; the training SAE is used up.

    Returns:
        A `sae_lens.SAE`, with its threshold calibrated where the architecture selected over batches.
    """
    if standard is not None:
        standard.fold(sae)
    finished = as_inference(sae)
    if sae.cfg.architecture() in BATCHED:
        calibrate_threshold(finished, _some(rows), k=float(sae.cfg.k))
    return finished


def as_inference(sae: Any) -> Any:
    """Return the inference SAE that sae-lens saves for a training SAE."""
    with tempfile.TemporaryDirectory(prefix="vestige-sae-") as folder:
        sae.save_inference_model(folder)
        return library().SAE.load_from_disk(folder, device=str(sae.cfg.device)).eval().requires_grad_(False)


def _some(rows: TrainingRows) -> Tensor:
    return torch.cat(list(islice(iter(rows), max(1, min(CALIBRATED, len(rows.site)) // rows.batch_size))))


@torch.no_grad()
def _point(trainer: Any, output: Any, step: int) -> Step:
    x, made = output.sae_in, output.sae_out
    spread = (x - x.mean(0)).square().sum()
    fired = output.feature_acts.bool().sum()
    return Step(
        step=step,
        loss=float(output.loss),
        fvu=float((made - x).square().sum() / spread),
        l0=float(fired) / len(x),
        dead=float(trainer.dead_neurons.float().mean()),
        lr=float(trainer.optimizer.param_groups[0]["lr"]),
    )
