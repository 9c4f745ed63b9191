"""Train sparse autoencoders with sae-lens on activations of a store, or of a model and a corpus."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from hooked import ActivationStore, HookedModel, VestigeError, harvest
from hooked.harvest.corpus import Corpus
from hooked.harvest.plan import Dtype
from hooked.sites import SiteLike
from sae.check.measures import Measures
from sae.check.quality import Quality, quality, quality_of
from sae.device import usable
from sae.read import read_coder
from sae.train.checks import check_checkpoints, check_rate, check_sites, check_whole, check_written
from sae.train.config import training_sae
from sae.train.fit import Log, Schedule, Step, fit
from sae.train.rows import TrainingRows

RECORD = "training.json"
# What quality was measured on.
TRAINING, HELD_OUT = "training", "held out"
# Rows that quality is measured on where no model is given.
_MEASURED = 1 << 15


@dataclass(frozen=True, eq=False)
class TrainedSAE:
    """A trained SAE with what was measured of it.

    Args:
        sae: A `sae_lens.SAE` for inference, on raw activations.
        quality: Its quality; cross-entropies only where a model was given.
        history: About a hundred points of the training.
        path: Its folder, or None.
        settings: What it was trained with.
    """

    sae: Any
    quality: Quality
    history: tuple[Step, ...]
    path: Path | None
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        cfg = self.sae.cfg
        return (
            f"TrainedSAE({cfg.architecture()}, {cfg.d_in} -> {cfg.d_sae}, '{cfg.metadata.hook_name}': {self.quality})"
        )


def train_sae(source: Any, corpus: Any = None, *, site: SiteLike, **settings: Any) -> TrainedSAE:
    """Train one SAE; `train_saes` documents the arguments."""
    (trained,) = train_saes(source, corpus, sites=[site], **settings).values()
    return trained


def train_saes(
    source: Any,
    corpus: Any = None,
    *,
    sites: Sequence[SiteLike],
    d_sae: int,
    architecture: str = "topk",
    k: int | float | None = None,
    steps: int = 10_000,
    batch_size: int = 2048,
    lr: float = 1e-3,
    seed: int = 0,
    standardise: bool = True,
    max_norm_ratio: float | None = 10.0,
    dead_after: int | None = None,
    held_out: Any = None,
    max_tokens: int | None = None,
    store_dtype: Dtype | None = None,
    out: str | PathLike[str] | None = None,
    checkpoints: int = 0,
    device: str = "cpu",
    progress: bool = True,
    log: Log | None = None,
    **options: Any,
) -> dict[str, TrainedSAE]:
    """Train an SAE for each of several sites, after a single pass of the model.

    Activations are standardised while it trains, and the standardisation is folded into the weights at the end, so that
    what comes out reads raw activations. The same seed gives the same weights on the same machine.

    Args:
        source: An `ActivationStore`, or a `HookedModel`, which reads the corpus once into a store that is then deleted.
        corpus: What the model reads: whatever `hooked.harvest` takes.
        sites: Where.
        d_sae: Number of latents.
        architecture: One that sae-lens trains: `topk`, `abstopk`, `batchtopk`, `matryoshka_batchtopk`, `jumprelu`,
            `gated`, `standard` or `matching_pursuit`.
        k: Latents per token, for the topk architectures; 32 when None.
        steps: Batches to train on. The store is read again, in another order, as often as that takes.
        batch_size: Rows of a batch.
        lr: Learning rate; it falls to zero over the last fifth of the steps.
        seed: Of the initial weights and the order of rows.
        standardise: Bring activations to mean 0 and variance 1 first.
        max_norm_ratio: Leave out rows longer than so many times the median norm; None keeps all.
        dead_after: Steps without firing after which a latent counts as dead, which the topk architectures then revive;
            a tenth of all steps, at most 1,000, when None.
        held_out: Documents that `quality` is measured on when the source is a model. Otherwise it is measured on what
            was trained on, which flatters it; `settings["measured_on"]` and the SAE's metadata say which.
        max_tokens: Tokens that the model reads at most; `steps * batch_size` when None.
        store_dtype: Of the store that is deleted afterwards, e.g. "int8" for a quarter of the disk.
        out: Folder to write to, or with several sites to have a folder for each: `cfg.json` and
            `sae_weights.safetensors`, which sae-lens opens, and `training.json`.
        checkpoints: How many snapshots are taken on the way, evenly spread, in `checkpoints` of that folder.
        device: Where it trains.
        progress: Show a bar on a terminal.
        log: Called about a hundred times with named numbers, e.g. `wandb.log`.
        options: More fields of the architecture's training configuration in sae-lens, e.g. `l1_coefficient`.

    Returns:
        Canonical site to result.

    Raises:
        VestigeError: A setting is out of range, unknown to the architecture or cannot be written, a folder is taken, a
            site or device does not exist, or the store has fewer rows than a batch.
    """
    check_sites(sites)
    check_whole(steps=steps, batch_size=batch_size, d_sae=d_sae)
    dead_after = max(1, min(1000, steps // 10)) if dead_after is None else dead_after
    check_whole(dead_after=dead_after)
    check_rate(lr)
    check_checkpoints(checkpoints, steps, out)
    check_written(options, out, RECORD)
    settings: dict[str, Any] = {
        "architecture": architecture,
        "d_sae": d_sae,
        "k": k,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "standardise": standardise,
        "max_norm_ratio": max_norm_ratio,
        "dead_after": dead_after,
        "max_tokens": max_tokens,
        "store_dtype": store_dtype,
        "checkpoints": checkpoints,
        "device": usable(device),
        **options,
    }
    model = _model(source, corpus)
    settings["measured_on"] = TRAINING if model is None or held_out is None else HELD_OUT
    if model is not None and held_out is None and Corpus(corpus, model.tokenizer).repeatable:
        held_out = corpus
    schedule = Schedule(
        steps=steps,
        lr=lr,
        dead_after=dead_after,
        snapshots=tuple(i * steps // (checkpoints + 1) for i in range(1, checkpoints + 1)),
    )
    results: dict[str, TrainedSAE] = {}
    tokens = steps * batch_size if max_tokens is None else max_tokens
    with _opened(source, corpus, sites, tokens=tokens, dtype=store_dtype, progress=progress) as store:
        names = list(dict.fromkeys(store.site(site).name for site in sites))
        folders = _folders(out, names)
        for name in names:
            rows = TrainingRows.of(
                store.site(name), batch_size, seed=seed, max_norm_ratio=max_norm_ratio, device=device
            )
            untrained = training_sae(
                architecture,
                d_in=rows.site.spec.d,
                d_sae=d_sae,
                k=k,
                seed=seed,
                device=device,
                about=_about(rows),
                **options,
            )
            sae, history = fit(
                untrained,
                rows,
                schedule,
                standard=rows.standard() if standardise else None,
                snapshot=partial(_snapshot, folders[name]),
                show=progress,
                log=log,
            )
            found = _measured(sae, rows, model, held_out)
            # What sae-lens notes here is the L0 of training, which is not that of the saved SAE for batch-topk.
            sae.cfg.metadata.l0 = found.l0
            sae.cfg.metadata.mean_norm = found.norm
            sae.cfg.metadata.fve = found.fve
            sae.cfg.metadata.measured_on = settings["measured_on"]
            results[name] = TrainedSAE(sae, found, history, folders[name], settings)
            _write(results[name])
    return results


def _model(source: Any, corpus: Any) -> HookedModel | None:
    if isinstance(source, ActivationStore):
        if corpus is not None:
            raise VestigeError("a store holds its activations already; pass either a store, or a model and a corpus")
        return None
    if not isinstance(source, HookedModel):
        raise VestigeError(f"needed an ActivationStore, or a HookedModel and a corpus, got {type(source).__name__}")
    if corpus is None:
        raise VestigeError("a model needs a corpus to read")
    return source


@contextmanager
def _opened(
    source: Any, corpus: Any, sites: Sequence[SiteLike], *, tokens: int, dtype: Dtype | None, progress: bool
) -> Iterator[ActivationStore]:
    if isinstance(source, ActivationStore):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="vestige-acts-") as folder, warnings.catch_warnings():
        # A corpus shorter than the training is read again.
        warnings.filterwarnings("ignore", message="the corpus ended after")
        yield harvest(source, corpus, sites=list(sites), path=folder, dtype=dtype, max_tokens=tokens, progress=progress)


def _about(rows: TrainingRows) -> dict[str, Any]:
    """Say what the activations are of, for whoever opens the file."""
    store, content = rows.site.store, rows.site.store.spec.content
    return {
        "hook_name": rows.site.name,
        "model_name": store.about.get("model"),
        "weights_sha256": content["model"].get("weights"),
        "prepend_bos": content.get("prepend_bos"),
        "context_size": content.get("context_size"),
        "activations": store.address,
    }


def _measured(sae: Any, rows: TrainingRows, model: HookedModel | None, held_out: Any) -> Quality:
    if model is not None and held_out is not None:
        return quality(model, sae, held_out)
    measures = Measures(read_coder(sae))
    for batch in islice(rows, max(1, min(_MEASURED, len(rows.site)) // rows.batch_size)):
        measures.add(batch)
    return quality_of(measures)


def _folders(out: Any, names: Sequence[str]) -> dict[str, Path | None]:
    if out is None:
        return dict.fromkeys(names)
    home = Path(out).expanduser()
    folders = {name: home if len(names) == 1 else home / name for name in names}
    for folder in folders.values():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise VestigeError(f"'{folder}' exists and is not an empty folder; choose another out=")
    return dict(folders)


def _snapshot(folder: Path | None, step: int, sae: Any) -> None:
    if folder is not None:
        sae.save_model(folder / "checkpoints" / f"step-{step:06d}")


def _write(trained: TrainedSAE) -> None:
    if trained.path is None:
        return
    try:
        trained.sae.save_model(trained.path)
        record = {
            "settings": dict(trained.settings),
            "quality": {**asdict(trained.quality), "ce_recovered": trained.quality.ce_recovered},
            "history": [asdict(point) for point in trained.history],
        }
        (trained.path / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise VestigeError(f"'{trained.path}' cannot be written: {error.strerror or error}") from error
