"""`harvest`: the activations of a corpus, on disk, at the speed of the model's own forward pass."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from hooked.capture import NamesFilter
from hooked.errors import VestigeError
from hooked.harvest.corpus import Corpus
from hooked.harvest.packing import Packing
from hooked.harvest.plan import Dtype, Plan, plan
from hooked.harvest.record import PIECE_BYTES
from hooked.harvest.resume import Finished, finished
from hooked.harvest.steps import Steps, batches_of, expected_tokens, forward, write_shards
from hooked.model import HookedModel
from hooked.progress import bar
from hooked.store.lock import locked
from hooked.store.manifest import SHARDS, begin, publish, read_manifest, sync_folder
from hooked.store.store import ActivationStore, manifest_of
from hooked.store.writer import check_space

__all__ = ["batches_of", "expected_tokens", "forward", "harvest"]


# Arguments of the Ray engine, for messages; importing it would import Ray.
RAY_OPTIONS = {"workers", "num_gpus", "num_cpus", "address"}


def harvest(
    model: HookedModel,
    corpus: Any,
    *,
    sites: NamesFilter,
    path: str | PathLike[str],
    dtype: Dtype | None = None,
    group_size: int | None = None,
    packing: Packing = "documents",
    context_size: int | None = None,
    batch_tokens: int = 8192,
    max_tokens: int | None = None,
    exclude_special: bool = True,
    prepend_bos: bool | None = None,
    text_field: str = "text",
    shard_rows: int | None = None,
    buffer_bytes: int = 16 << 20,
    engine: Literal["local", "ray"] = "local",
    progress: bool = True,
    **ray_options: Any,
) -> ActivationStore:
    """Run a corpus through a model and store the activations of some sites, one row per token.

    The pass ends after the last site that is needed, rows are packed in one read of every activation, and a thread
    writes them while the model goes on; memory does not depend on the length of the corpus. A harvest that was killed
    goes on where it stopped when it is called with the same arguments, and ends with the bytes of one that was not.
    Calling it on a finished store reads the corpus once more, to see that it is the same, and returns the store.

    Args:
        model: A model, or a view of one with interventions in force.
        corpus: Texts, sequences of token ids, rows with `text` or `input_ids`, a Hugging Face dataset (streaming too),
            an id tensor, the path of a JSONL file, or a generator of any of these.
        sites: A site, a list of sites, or a predicate on canonical names.
        path: Folder of the store; new, empty, or a store that was begun with the same arguments.
        dtype: "float32", "bfloat16", "float16", or the 8-bit "int8" and "float8_e4m3" with a scale per row; the
            model's own dtype when None.
        group_size: Columns that share a scale in the 8-bit formats; for streams with massive activations.
        packing: `documents` reads every document by itself; `contexts` joins documents and cuts full contexts, which
            wastes no padding but lets a token see the document before its own.
        context_size: Longest row; the model's positions, at most 1,024, when None.
        batch_tokens: Places of a batch, padding included.
        max_tokens: Rows to store, exactly; the whole corpus when None.
        exclude_special: Leave out rows of special tokens (BOS, EOS, padding).
        prepend_bos: One BOS in front of text; the model's default when None.
        text_field: Field of a row that holds its text.
        shard_rows: Rows of a shard, the unit of what a killed run keeps; at most 64 MB when None.
        buffer_bytes: Memory for rows on their way to disk.
        engine: `local`, or `ray` to spread the work over a Ray cluster, with the same bytes as result.
        progress: Show a bar on a terminal.
        ray_options: Arguments of the Ray engine, `workers=` above all; see `hooked.harvest.on_ray`.

    Returns:
        The store, open for reading.

    Raises:
        VestigeError: A site does not exist, the disk has too little room, the folder holds something else or was begun
            with other arguments, another process writes to it, or a document cannot be read. What was finished stays.
    """
    folder = Path(path).expanduser()
    if not isinstance(model, HookedModel):
        raise VestigeError(
            f"harvest takes a HookedModel, got {type(model).__name__}; wrap it: HookedModel(model, tokenizer)"
        )
    read = Corpus(
        corpus, model.tokenizer, model.default_prepend_bos if prepend_bos is None else prepend_bos, text_field
    )
    settled = plan(
        model,
        sites=sites,
        dtype=dtype,
        group_size=group_size,
        packing=packing,
        context_size=context_size,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        exclude_special=exclude_special,
        prepend_bos=read.prepend_bos,
        shard_rows=shard_rows,
    )
    places = max(batch_tokens, settled.context_size)
    widest = max(min(PIECE_BYTES, places * s.row_bytes) + s.row_bytes for s in settled.sites.values())
    if buffer_bytes < 2 * widest + 4096:
        raise VestigeError(f"buffer_bytes is at least {2 * widest + 4096} for these sites, got {buffer_bytes}")
    if engine not in ("local", "ray"):
        raise VestigeError(f"engine is 'local' or 'ray', got {engine!r}")
    if engine == "local" and ray_options:
        hint = "; it belongs to engine='ray'" if set(ray_options) <= RAY_OPTIONS else ""
        raise VestigeError(f"harvest has no argument '{next(iter(ray_options))}' with engine='local'{hint}")
    if folder.exists() and not folder.is_dir():
        raise VestigeError(f"'{folder}' is a file; give the path of a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            begin(folder, settled.spec, about={"model": Path(model.name).name})
            expected = expected_tokens(read, settled)
            done = finished(folder, settled)
            if expected is not None:
                left = max(0, expected - sum(shard.rows for shard in done.values()))
                # A sample of documents may mislead, so what it says is halved before it stops anybody.
                check_space(folder, settled.disk_bytes(left if read.counted else left // 2))
            if engine == "ray":
                from hooked.harvest.on_ray import fill

                found = fill(
                    model,
                    read,
                    settled,
                    folder,
                    done,
                    total=expected,
                    buffer_bytes=buffer_bytes,
                    progress=progress,
                    **ray_options,
                )
            else:
                found = _fill(
                    model, read, settled, folder, done, total=expected, buffer_bytes=buffer_bytes, progress=progress
                )
            _publish(folder, settled, found, model)
    except OSError as error:
        raise VestigeError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    except KeyboardInterrupt:
        kept = len(list((folder / SHARDS).glob("shard-*")))
        raise KeyboardInterrupt(f"{kept} shards of '{folder}' are finished; the same call goes on from there") from None
    store = ActivationStore(folder)
    _report(store, max_tokens)
    return store


def _fill(
    model: HookedModel,
    corpus: Corpus,
    settled: Plan,
    folder: Path,
    done: Finished,
    *,
    total: int | None,
    buffer_bytes: int,
    progress: bool,
) -> Finished:
    """Write every shard that is missing, and compare the tokens of the others."""
    steps = Steps(corpus, settled, done)
    with bar(total, what="harvest", row_bytes=settled.row_bytes, show=progress) as shown:
        write_shards(model, steps, settled, folder, buffer_bytes=buffer_bytes, written=shown.update)
    return done.complete(steps.rows)


def _publish(folder: Path, settled: Plan, found: Finished, model: HookedModel) -> None:
    shards = [found[index] for index in sorted(found)]
    if not shards:
        raise VestigeError("the corpus has no token to store")
    rows = sum(shard.rows for shard in shards)
    exhausted = settled.max_tokens is not None and rows < settled.max_tokens
    # The names of the shards have to be on disk before what makes them a store.
    sync_folder(folder / SHARDS)
    if read_manifest(folder) is None:
        documents = 1 + max(int(shard.tensor("documents").max()) for shard in shards)
        about = {"model": Path(model.name).name}
        publish(folder, manifest_of(settled.spec, shards, documents=documents, exhausted=exhausted, about=about))


def _report(store: ActivationStore, asked: int | None) -> None:
    """Warn of what a user would not want to find out later."""
    if store.exhausted:
        warnings.warn(
            f"the corpus ended after {len(store):,} of the {asked:,} tokens asked for; nothing was repeated",
            stacklevel=3,
        )
    for name in store.stored:
        totals = store.totals(name)
        if totals.not_finite:
            warnings.warn(f"'{name}': {totals.not_finite:,} activations were NaN or infinite", stacklevel=3)
        if totals.overflowed:
            warnings.warn(
                f"'{name}': {totals.overflowed:,} activations are too large for {store.stored[name].format.dtype} "
                "and were stored as infinite; use bfloat16, float32 or int8",
                stacklevel=3,
            )
