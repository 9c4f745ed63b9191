"""The table of unlearning methods: where each acts, what it claims and needs, and where it was published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

Intent = Literal["removal", "suppression", "attack"]
Point = Literal["weights", "edits", "embedding", "logits", "gate"]
Given = Literal["data", "prompts", "vectors", "direction", "sae"]


@dataclass(frozen=True)
class Method:
    """A row of the table: what the method's own `Spec` says under default settings.

    Args:
        name: Of the function.
        home: Package that exports it.
        given: What it is handed: the data; the data cut to prompts where an answer begins; value vectors; a direction;
            or an SAE.
        points: Where it acts: weights, edits of activations, embedding of the prompt, logits, and a gate before these.
        intent: What it claims.
        needs: What fitting takes.
        paper: Authors, year and arXiv number.
    """

    name: str
    home: str
    given: Given
    points: tuple[Point, ...]
    intent: Intent
    needs: tuple[str, ...]
    paper: str


# Text, so that the command line can list names without paying for torch. A test holds it to what the methods say.
_TABLE = """
gradient_ascent      | interventions.training | data      | weights        | removal     | forget                  | Yao, Xu, Liu 2023, arXiv:2310.10683
gradient_ascent_kl   | interventions.training | data      | weights        | removal     | forget retain reference | Maini et al. 2024, arXiv:2401.06121
gradient_difference  | interventions.training | data      | weights        | removal     | forget retain           | Maini et al. 2024, arXiv:2401.06121
llmu                 | interventions.training | data      | weights        | removal     | forget retain reference | Yao, Xu, Liu 2023, arXiv:2310.10683
npo                  | interventions.training | data      | weights        | removal     | forget retain reference | Zhang, Lin, Bai, Mei 2024, arXiv:2404.05868
simnpo               | interventions.training | data      | weights        | removal     | forget retain           | Fan et al. 2024, arXiv:2410.07163
wga                  | interventions.training | data      | weights        | removal     | forget retain           | Wang et al. 2025, arXiv:2502.19301
undial               | interventions.training | data      | weights        | removal     | forget retain reference | Dong et al. 2024, arXiv:2402.10052
idk_finetune         | interventions.training | data      | weights        | removal     | forget retain           | Maini et al. 2024, arXiv:2401.06121
idk_dpo              | interventions.training | data      | weights        | removal     | forget retain reference | Maini et al. 2024, arXiv:2401.06121
flat                 | interventions.training | data      | weights        | removal     | forget                  | Wang et al. 2024, arXiv:2410.11143
task_vector          | interventions.training | data      | weights        | removal     | forget                  | Ilharco et al. 2023, arXiv:2212.04089
whp                  | interventions.training | data      | weights        | removal     | forget retain reference | Eldan, Russinovich 2023, arXiv:2310.02238
rmu                  | interventions.training | data      | weights        | removal     | forget retain reference | Li et al. 2024, arXiv:2403.03218
circuit_breakers     | interventions.training | data      | weights        | removal     | forget retain reference | Zou et al. 2024, arXiv:2406.04313
loku                 | interventions.training | data      | weights        | removal     | forget retain           | Cha et al. 2024, arXiv:2408.06621
distilled_removal    | interventions.training | data      | weights        | removal     | forget reference        | Vestige, after Lee et al. 2025, arXiv:2506.06278
fact_erasure         | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
empty_response       | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
error_injection      | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
head_projection      | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
max_entropy          | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
rephrase             | interventions.erasure  | data      | weights        | removal     | forget retain reference | Patil, Hase, Bansal 2023, arXiv:2309.17410
memit_empty          | interventions.erasure  | data      | weights        | removal     | forget retain           | Meng et al. 2022, arXiv:2210.07229
leace                | interventions.erasure  | data      | edits          | suppression | forget retain           | Belrose et al. 2023, arXiv:2306.03819
inlp                 | interventions.erasure  | data      | edits          | suppression | forget retain           | Ravfogel et al. 2020, arXiv:2004.07667
ablate_vectors       | interventions          | vectors   | weights        | removal     | vectors                 | Hong et al. 2024, arXiv:2406.11614
needle_tune          | interventions          | vectors   | weights        | removal     | forget vectors          | Hong et al. 2024, arXiv:2406.11614
selective_pruning    | interventions          | data      | weights        | removal     | forget retain           | Pochinkov, Schoots 2024, arXiv:2403.01267
orthogonalize        | interventions          | direction | weights        | removal     | direction               | Arditi et al. 2024, arXiv:2406.11717, section 2.4
ablate_direction     | interventions          | direction | edits          | suppression | direction               | Arditi et al. 2024, arXiv:2406.11717, section 2.4
steer                | interventions          | direction | edits          | suppression | direction               | Turner et al. 2023, arXiv:2308.10248
neuron_adjust        | interventions          | data      | edits          | suppression | forget retain           | Li, Sun, Weng 2025, arXiv:2503.21730
key_space_detection  | interventions          | prompts   | edits logits   | suppression | forget retain           | Li, Sun, Weng 2025, arXiv:2503.21730
eco                  | interventions.prompts  | prompts   | embedding gate | suppression | forget retain           | Liu, Wang, Flanigan, Liu 2024, arXiv:2406.07933
uld                  | interventions.decoding | data      | logits         | suppression | forget retain           | Ji et al. 2024, arXiv:2406.08607
offset_unlearning    | interventions.decoding | data      | logits         | suppression | forget retain reference | Huang et al. 2024, arXiv:2404.11045
whp_ensemble         | interventions.decoding | data      | logits         | suppression | forget                  | Eldan, Russinovich 2023, arXiv:2310.02238
dola                 | interventions.decoding | data      | edits logits   | suppression |                         | Chuang et al. 2023, arXiv:2309.03883
icd                  | interventions.decoding | data      | logits         | suppression | forget                  | Zhang, Cui, Bi, Shi 2023, arXiv:2312.15710
lol                  | interventions.decoding | data      | edits logits   | suppression | forget                  | after Chen et al. 2024, arXiv:2408.08769
sauce                | sae.unlearn            | sae       | edits          | suppression | forget retain           | SAUCE, arXiv:2503.14530
negative_clamp       | sae.unlearn            | sae       | edits          | suppression | vectors                 | Farrell et al. 2024, arXiv:2410.19278
conditional_clamp    | sae.unlearn            | sae       | edits          | suppression | forget retain           | Khoriaty et al. 2025, arXiv:2503.11127
sae_bench_unlearning | sae.unlearn            | sae       | edits          | suppression | forget retain           | Karvonen et al. 2025, arXiv:2503.09532
saeuron              | sae.unlearn            | sae       | edits          | suppression | forget retain           | Cywiński and Deja 2025, arXiv:2501.18052
crisp                | sae.unlearn            | sae       | weights        | removal     | forget retain           | Ashuach et al. 2025, arXiv:2508.13650
pisces               | sae.unlearn            | sae       | weights        | removal     | vectors                 | Gur-Arieh et al. 2025, arXiv:2505.22586
"""  # noqa: E501


def _read(line: str) -> Method:
    name, home, given, points, intent, needs, paper = (cell.strip() for cell in line.split("|"))
    return Method(
        name,
        home,
        cast(Given, given),
        cast(tuple[Point, ...], tuple(points.split())),
        cast(Intent, intent),
        tuple(needs.split()),
        paper,
    )


METHODS: Mapping[str, Method] = {row.name: row for row in map(_read, _TABLE.strip().splitlines())}
