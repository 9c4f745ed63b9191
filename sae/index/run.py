"""One run of the build of an index: shard by shard, in memory that does not grow with the corpus."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hooked import HookedModel, VestigeError
from hooked.harvest.packing import Batch
from hooked.harvest.plan import Reading
from hooked.harvest.steps import batches_of, expected_tokens, forward
from hooked.progress import bar
from hooked.store.manifest import StoreSpec
from hooked.text import token_text
from sae.coder import Coder
from sae.index.files import (
    DOCUMENTS,
    SHARDS,
    STATS,
    VOCAB,
    DamagedError,
    damaged_files,
    hash_of,
    publish,
    read_manifest,
    write_tensors,
    write_text,
)
from sae.index.labels import GroupedCorpus
from sae.index.shard import Gathering, IndexShard, Source, open_shard, shard_name
from sae.index.stats import merged, shard_stats
from sae.positions import Positions, norm_limit
from sae.stream import Gathered


@dataclass
class Run:
    """A build, under way.

    Args:
        model: The model.
        coder: On the model's device.
        site: Where it reads.
        settled: How the corpus is read.
        corpus: The documents.
        spec: What decides the index.
        folder: Where.
        max_norm_ratio: Tokens whose norm is above so many times the median of the first batch do not count.
        done: Shards that are finished.
        rule: Which tokens count; None before the first batch.
    """

    model: HookedModel
    coder: Coder
    site: str
    settled: Reading
    corpus: GroupedCorpus
    spec: StoreSpec
    folder: Path
    max_norm_ratio: float | None
    done: dict[int, IndexShard] = field(default_factory=dict)
    rule: Positions | None = None

    def run(self, *, shard_tokens: int, progress: bool) -> None:
        """Write what is missing.

        Raises:
            VestigeError: A pass failed, the corpus is another one than before, or the disk is full.
        """
        self.done = self._finished()
        expected, rows, index = expected_tokens(self.corpus, self.settled), 0, -1
        with bar(expected, show=progress, what="index") as shown:
            for index, batches in enumerate(_shards(batches_of(self.corpus, self.settled), shard_tokens)):
                source = Source()
                for batch in batches:
                    source.add(batch, self.corpus.label)
                rows += source.rows
                if index not in self.done:
                    left = 1.0 if expected is None else max(1.0, 1 + (expected - rows) / max(source.rows, 1))
                    self.done[index] = self._shard(index, batches, source, left=left, shown=shown)
                elif self.done[index].file.said["source"] != source.digest.hexdigest():
                    raise VestigeError(self._changed(f"its tokens differ from those in '{shard_name(index)}'"))
                else:
                    shown.update(source.rows)
        beyond = [number for number in self.done if number > index]
        if beyond:
            raise VestigeError(self._changed(f"it ends before '{shard_name(beyond[0])}'"))
        if not any(shard.rows for shard in self.done.values()):
            raise VestigeError("the corpus has no token that counts, so there is nothing to index")
        self._complete()

    def _finished(self) -> dict[int, IndexShard]:
        """Open the shards that are whole, and remove those that are not."""
        found = {}
        for path in sorted((self.folder / SHARDS).iterdir()):
            number = path.name.removeprefix("shard-").removesuffix(".safetensors")
            if not number.isdigit() or path.name != shard_name(int(number)):
                raise VestigeError(f"'{path.name}' in '{path.parent}' is no shard; move it away")
            try:
                shard = open_shard(path, index=int(number), spec=self.spec.digest)
                shard.file.check()
            except DamagedError:
                path.unlink()
                continue
            found[int(number)] = shard
            self.rule = Positions(self.settled.excluded, shard.file.said["max_norm"])
        return found

    def _shard(self, index: int, batches: list[Batch], source: Source, *, left: float, shown: Any) -> IndexShard:
        gathered = Gathering(self.coder.d_sae)
        for batch in batches:
            self._read(batch, gathered)
            shown.update(len(batch))
        tensors, labels = self._tensors(gathered)
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        free = shutil.disk_usage(self.folder).free
        if free < nbytes * left:
            raise VestigeError(
                f"about {nbytes * left / 1e9:.2f} GB more are needed in '{self.folder}', {free / 1e9:.2f} GB are free; "
                "index fewer tokens (max_tokens), or choose another folder"
            )
        said = {
            "spec": self.spec.digest,
            "shard": index,
            "source": source.digest.hexdigest(),
            "read": source.rows,
            "max_norm": None if self.rule is None else self.rule.max_norm,
            "labels": labels,
        }
        path = self.folder / SHARDS / shard_name(index)
        write_tensors(path, tensors, said)
        return open_shard(path, index=index, spec=self.spec.digest)

    def _read(self, batch: Batch, gathered: Gathering) -> None:
        if not len(batch):
            return
        recorder = Gathered((self.site,), index=batch.index)
        forward(self.model, batch, recorder)
        acts = self.coder.flat(torch.cat(recorder.rows))
        if self.rule is None:
            self.rule = Positions(self.settled.excluded, norm_limit(acts, self.max_norm_ratio))
        kept = self.rule.within(acts)
        columns = tuple(column[kept.cpu()].numpy() for column in batch.provenance)
        gathered.add(self.coder.sparse(acts[kept]), columns)

    def _tensors(self, gathered: Gathering) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
        ptr, rows, values = gathered.sorted()
        columns = gathered.columns()
        with np.errstate(over="ignore"):
            stored = values.astype(self.spec.content["value_dtype"])
        if not np.isfinite(stored).all():
            raise VestigeError(
                f"a latent of {np.abs(values).max():g} is too large for {stored.dtype}; use value_dtype='float32'"
            )
        # What is active stays so, though its value is rounded to nothing.
        smallest = np.finfo(stored.dtype).smallest_subnormal
        stored = np.where(stored == 0, np.copysign(smallest, values), stored).astype(stored.dtype)
        documents = np.unique(columns["documents"])
        names = [self.corpus.label(document) for document in documents.tolist()]
        labels = sorted(set(names))
        numbers = np.zeros(1 + int(columns["documents"].max(initial=0)), np.int64)
        numbers[documents] = [labels.index(name) for name in names]
        latents = np.repeat(np.arange(self.coder.d_sae), np.diff(ptr))
        stats = shard_stats(
            latents, stored, numbers[columns["documents"]][rows], groups=len(labels), d_sae=self.coder.d_sae
        )
        return {"ptr": ptr, "rows": rows, "values": stored, **columns, **stats}, labels

    def _complete(self) -> None:
        """Write what is said of all shards together, unless that is there already."""
        shards = [self.done[index] for index in sorted(self.done)]
        listed = [{"name": s.file.path.name, "rows": s.rows, "digest": s.file.digest} for s in shards]
        try:
            manifest = read_manifest(self.folder)
        except DamagedError:
            manifest = None
        if manifest is not None and manifest["shards"] == listed and not damaged_files(self.folder, manifest):
            return
        groups, of_document = self.corpus.numbered()
        n_documents = len(of_document)
        tokens, ids = np.zeros(n_documents, np.int64), set()
        for shard in shards:
            tokens += np.bincount(shard.column("documents"), minlength=n_documents)
            ids.update(np.unique(shard.column("tokens")).tolist())
        stats = merged(shards, groups, of_document, self.coder.d_sae)
        stats["n_tokens"] = np.bincount(of_document, tokens, minlength=len(groups)).astype(np.int64)
        stats["n_documents"] = np.bincount(of_document[tokens > 0], minlength=len(groups))
        write_tensors(self.folder / STATS, stats, {"groups": groups})
        write_tensors(self.folder / DOCUMENTS, {"tokens": tokens, "groups": of_document}, {})
        write_text(self.folder / VOCAB, json.dumps(_strings(self.model.tokenizer, sorted(ids))))
        manifest = {
            "spec": self.spec.digest,
            "n_tokens": int(tokens.sum()),
            "n_documents": n_documents,
            "n_entries": sum(shard.entries_in_all for shard in shards),
            "left_out": sum(shard.file.said["read"] - shard.rows for shard in shards),
            "max_norm": None if self.rule is None else self.rule.max_norm,
            "shards": listed,
            "files": {name: hash_of(self.folder / name) for name in (STATS, DOCUMENTS, VOCAB)},
        }
        publish(self.folder, manifest)

    def _changed(self, how: str) -> str:
        return f"'{self.folder}' was begun with another corpus: {how}; use the same corpus, or another folder"


def _shards(batches: Iterable[Batch], shard_tokens: int) -> Iterator[list[Batch]]:
    """Group batches into shards; by tokens that are read, since which of them count is known after the pass only."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        if sum(len(one) for one in held) >= shard_tokens:
            yield held
            held = []
    if held:
        yield held


def _strings(tokenizer: Any, ids: Iterable[int]) -> dict[str, str]:
    """Return what some token ids stand for; nothing without a tokenizer."""
    return {} if tokenizer is None else {str(i): token_text(tokenizer, i) for i in ids}
