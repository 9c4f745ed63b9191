"""What the 8-bit store is for: an SAE and a probe learn from it what they learn from float32 rows.

The numbers that the assertions are about are recorded as properties of the tests; `-rP` prints them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked import ActivationStore, HookedModel, harvest
from hooked.store.site import StoredSite
from vestige import organism
from vestige.organism.documents import document

SITE = "blocks.2.hook_resid_post"
BATCH, STEPS, D_SAE, K = 512, 300, 512, 16
NAMED, OTHERS = 300, 900


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], Tensor]:
    """Fresh sentences of the organism's world, and which of them are about the concept to forget."""
    world = organism.world()
    name = world.forget_concept.name
    stream = [document(world, i, seed=1) for i in range(14_000)]
    named = [text for text in stream if name in text][:NAMED]
    others = [text for text in stream if name not in text][:OTHERS]
    assert (len(named), len(others)) == (NAMED, OTHERS)
    return [*named, *others], torch.arange(NAMED + OTHERS) < NAMED


@pytest.fixture(scope="module")
def sites(corpus: tuple[list[str], Tensor], tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredSite]:
    """The same rows in float32 and in int8, read back from disk."""
    model, folder = HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32"), {}
    for dtype in ("float32", "int8"):
        folder[dtype] = tmp_path_factory.mktemp("stores") / dtype
        harvest(model, corpus[0], sites=SITE, path=folder[dtype], dtype=dtype, progress=False)
    return {dtype: ActivationStore(path).site(SITE) for dtype, path in folder.items()}


def unexplained(sae: Any, rows: Tensor) -> float:
    """Return the fraction of variance unexplained: squared errors over squared distances from the mean."""
    with torch.no_grad():
        return float((rows - sae(rows)).square().sum() / (rows - rows.mean(0)).square().sum())


def test_an_sae_trained_from_int8_explains_as_much_as_one_from_float32(
    sites: dict[str, StoredSite], record_property: Any
) -> None:
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    rows = sites["float32"][:]
    left = {}
    for dtype, site in sites.items():
        torch.manual_seed(0)
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=site.spec.d, d_sae=D_SAE, k=K))
        left["untrained"] = unexplained(sae, rows)
        losses = []

        class Recorded(SAETrainer):  # type: ignore[misc]
            def step(self, batch: Tensor) -> Any:
                output = super().step(batch)
                losses.append(float(output.loss.detach()))  # noqa: B023  # called before the next turn of the loop
                return output

        settings = SAETrainerConfig(
            total_training_samples=STEPS * BATCH, train_batch_size_samples=BATCH, lr=1e-3, lr_end=1e-4
        )
        with torch.enable_grad():
            Recorded(cfg=settings, sae=sae, data_provider=site.as_data_provider(BATCH, seed=0)).fit()
        assert len(losses) == STEPS
        first, last = np.mean(losses[:20]), np.mean(losses[-20:])
        assert last < 0.1 * first
        left[dtype] = unexplained(sae, rows)
        record_property(f"loss_{dtype}", f"{first:.1f} to {last:.1f}")
    for name, number in left.items():
        record_property(f"fvu_{name}", number)
    print({name: round(number, 5) for name, number in left.items()})
    assert left["untrained"] > 0.9
    assert max(left["float32"], left["int8"]) < 0.1
    assert abs(left["float32"] - left["int8"]) < 0.002


def held_out_auc(rows: Tensor, documents: Tensor, about: Tensor) -> float:
    """Return how well a linear probe tells rows of documents that it has not seen."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fits = documents % 2 == 0
    labels = about[documents.long()].numpy()
    x, seen = ((rows - rows[fits].mean(0)) / rows[fits].std(0)).numpy(), fits.numpy()
    probe = LogisticRegression(C=0.1, max_iter=1000).fit(x[seen], labels[seen])
    return float(roc_auc_score(labels[~seen], probe.decision_function(x[~seen])))


def test_a_probe_reads_the_same_from_int8_and_float32(
    sites: dict[str, StoredSite], corpus: tuple[list[str], Tensor], rng: torch.Generator, record_property: Any
) -> None:
    about = corpus[1]
    shuffled = about[torch.randperm(len(about), generator=rng)]
    found = {}
    for dtype, site in sites.items():
        documents = site.provenance(slice(None)).documents
        found[dtype] = held_out_auc(site[:], documents, about)
        found[f"{dtype}, shuffled labels"] = held_out_auc(site[:], documents, shuffled)
    for name, number in found.items():
        record_property(f"auc_{name}", number)
    print({name: round(number, 5) for name, number in found.items()})
    assert min(found["float32"], found["int8"]) > 0.8
    assert abs(found["float32"] - found["int8"]) < 0.002
    assert all(abs(number - 0.5) < 0.08 for name, number in found.items() if "shuffled" in name)


def test_int8_is_not_float32(sites: dict[str, StoredSite], tmp_path: Path) -> None:
    """Hold the comparisons above to their claim: the rows they learn from do differ."""
    exact, eight = sites["float32"][:], sites["int8"][:]
    error = float((eight - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.02
    assert sites["int8"].spec.row_bytes == exact.shape[1] + 4 < sites["float32"].spec.row_bytes / 3
    for name in ("tokens", "documents", "positions"):
        assert getattr(sites["int8"].provenance(slice(None)), name).equal(
            getattr(sites["float32"].provenance(slice(None)), name)
        )
