"""Do the concept vectors that the search finds carry the concept?

For each of the organism's 24 concepts the ten best vectors are ablated together, and every concept's facts are asked.
The claim: in at least 20 of 24 the concept's own facts suffer more than any other concept's. Writes
docs/results/concept-vectors.md.

Run with: .venv/bin/python -m benchmarks.concept_vectors
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch

from hooked import HookedModel, Item
from probes import CausalEffect, ConceptVector, causal_effect, find_concept_vectors
from probes.vocabulary import default_k
from vestige import organism

TOP = 10
CONTROL_DRAWS = 3
OUT = Path(__file__).parents[1] / "docs" / "results" / "concept-vectors.md"

Neuron = tuple[int, int]
Search = Callable[[HookedModel, str], Sequence[ConceptVector | Neuron]]


@dataclass(frozen=True)
class Row:
    """What ablating one concept's vectors did."""

    concept: str
    effect: CausalEffect
    worst_other: str
    worst_drop: float

    @property
    def holds(self) -> bool:
        """Whether the concept's own facts suffered most."""
        return self.effect.target_drop > self.worst_drop


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    model = HookedModel.from_pretrained(str(organism.organism_path("full")), dtype="float32")
    names = [concept.name for concept in organism.world().concepts]
    items = {name: questions(name) for name in names}
    searches: dict[str, Search] = {
        "lexicon, rank surprise (the default)": by_lexicon,
        "lexicon, mean z-scored logit": lambda m, name: by_logits(m, name, count=False),
        "lexicon, tokens among the top k": lambda m, name: by_logits(m, name, count=True),
        "seed text against the other concepts' text": by_text,
    }
    tables = {}
    for label, search in searches.items():
        # Controls cost as much as the ablations themselves, so only the default gets more than one draw.
        draws = CONTROL_DRAWS if search is by_lexicon else 1
        tables[label] = [measure(model, search(model, name), name, items, draws=draws) for name in names]
        print(f"{label}: {sum(row.holds for row in tables[label])} of {len(names)}", flush=True)
    text = report(model, tables, seconds=time.perf_counter() - started)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


def questions(name: str) -> list[Item]:
    """Two questions per fact: in a phrasing trained for it and in one that never was."""
    rows = [*organism.forget_rows(name), *organism.holdout_rows(name)]
    return [Item(row["question"], row["answer"], concept=name) for row in rows]


def by_lexicon(model: HookedModel, name: str) -> Sequence[ConceptVector]:
    """Search by the concept's own words."""
    return find_concept_vectors(model, lexicon=organism.lexicon(name), top=TOP)


def by_text(model: HookedModel, name: str) -> Sequence[ConceptVector]:
    """Search by the concept's questions and answers, against everybody else's."""
    own, others = (
        [f"{row['question']} {row['answer']}" for row in rows]
        for rows in (organism.forget_rows(name, per_fact=3), organism.retain_rows(name, per_fact=3))
    )
    return find_concept_vectors(model, seed_text=own, background=others, top=TOP)


def by_logits(model: HookedModel, name: str, *, count: bool) -> list[Neuron]:
    """Search by simpler scores: the number of lexicon words among the top k tokens, or their mean z-scored logit."""
    ids = torch.tensor([int(model.to_tokens(word, prepend_bos=False)[0, 0]) for word in organism.lexicon(name)])
    logits = torch.cat([model.value_vectors(layer) for layer in range(model.n_layers)]) @ model.W_U
    z = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, keepdim=True)
    score = z[:, ids].mean(-1)
    if count:
        top = torch.zeros_like(logits).scatter_(1, logits.topk(default_k(model.d_vocab)).indices, 1.0)
        # The z-score only breaks ties.
        score = top[:, ids].sum(-1) + 1e-3 * score
    return [divmod(i, model.d_mlp) for i in score.topk(TOP).indices.tolist()]


def measure(
    model: HookedModel,
    vectors: Sequence[ConceptVector | Neuron],
    name: str,
    items: dict[str, list[Item]],
    *,
    draws: int,
) -> Row:
    """Ablate the vectors of one concept and ask about all."""
    unrelated = [item for other, asked in items.items() if other != name for item in asked]
    effect = causal_effect(model, vectors, items[name], unrelated, control_draws=draws, batch_size=240)
    drops: dict[str, list[float]] = {}
    for item, drop in zip(unrelated, effect.unrelated_drops, strict=True):
        drops.setdefault(str(item.concept), []).append(drop)
    means = {other: mean(values) for other, values in drops.items()}
    worst = max(means, key=means.__getitem__)
    return Row(name, effect, worst, means[worst])


def report(model: HookedModel, tables: dict[str, list[Row]], *, seconds: float) -> str:
    """Lay the result out as Markdown."""
    default = next(iter(tables.values()))
    n_held, n_asked = sum(row.holds for row in default), len(default[0].effect.target_drops)
    lines = [
        "# Concept vectors of the organism",
        "",
        f"For {n_held} of {len(default)} concepts, ablating the concept's ten best value vectors together (setting",
        "them to zero) hurts that concept's facts more than any other concept's.",
        "",
        f"Every fall is one of the answer's probability, the mean over {n_asked} questions per concept: one trained",
        "and one held-out phrasing of each of 20 facts; probabilities are length-normalised. *Random* is the fall of",
        "the concept's own facts when as many random neurons of the same layers are ablated, the mean of",
        f"{CONTROL_DRAWS} draws. *p* is the share of random directions that score as high as the best vector.",
        "",
        *by_concept(model, default),
        "",
        "## Which score finds the vectors that matter",
        "",
        *by_search(tables),
        "",
        machine(seconds),
        "",
    ]
    return "\n".join(lines)


def by_concept(model: HookedModel, rows: Sequence[Row]) -> list[str]:
    """One line per concept."""
    lines = [
        "| concept | best vector | score | p | own words in its top k | before | own facts fall | worst other "
        "| mean other | random | own falls most |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        best, e = by_lexicon(model, row.concept)[0], row.effect
        words = sum(token in organism.lexicon(row.concept) for token in best.top_tokens)
        lines.append(
            f"| {row.concept} | {best.layer}.{best.neuron} | {best.score:.2f} | {best.p_value:.4f} "
            f"| {words} of {len(best.top_tokens)} | {e.target_before:.3f} | {e.target_drop:.4f} "
            f"| {row.worst_drop:.4f} ({row.worst_other}) | {e.unrelated_drop:.4f} | {e.control_target_drop:.4f} "
            f"| {'yes' if row.holds else 'no'} |"
        )
    return lines


def by_search(tables: dict[str, list[Row]]) -> list[str]:
    """One line per way of searching."""
    lines = [
        "| search | own falls most | own facts fall | worst other | mean other | own / worst other |",
        "|---|---|---|---|---|---|",
    ]
    for label, rows in tables.items():
        own = mean(row.effect.target_drop for row in rows)
        worst = mean(row.worst_drop for row in rows)
        other = mean(row.effect.unrelated_drop for row in rows)
        held = f"{sum(row.holds for row in rows)} of {len(rows)}"
        lines.append(f"| {label} | {held} | {own:.4f} | {worst:.4f} | {other:.4f} | {own / worst:.2f} |")
    return lines


def machine(seconds: float) -> str:
    """Say where and with what this ran."""
    root = Path(__file__).parents[1]
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"Measured by `python -m benchmarks.concept_vectors` in {seconds:.0f} s on {platform.machine()}, one thread, "
        f"Python {platform.python_version()}, {packages}, at or just after commit {found.stdout.strip() or 'unknown'}."
    )


if __name__ == "__main__":
    main()
