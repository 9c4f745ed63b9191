"""The table of attacks: what the attacker needs, whether it is shown the answers, and in which suites it runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from hooked.errors import VestigeError

Access = Literal["prompts", "logits", "activations", "gradients", "weights", "training"]
Suite = Literal["quick", "standard", "full"]


@dataclass(frozen=True)
class Attack:
    """A row of the table.

    Args:
        name: Of the function and, behind a colon, of the settings that make it another attack.
        home: Module that holds the function.
        access: What the attacker needs at most; each kind includes those before it, training includes all.
        uses_target: Whether it optimises towards the answers it is scored on, which makes its score an upper bound.
        suite: The smallest suite in which it runs.
        passes: Its cost, in passes over the forget items (a backward pass counts twice), about; without what every
            block adds.
        per_block: What every block adds, where all blocks are tried.
        settings: Arguments beyond the defaults.
        says: What it does, in a few words.
        paper: Authors, year and arXiv number.
    """

    name: str
    home: str
    access: Access
    uses_target: bool
    suite: Suite
    passes: int
    per_block: int
    settings: Mapping[str, Any]
    says: str
    paper: str


# Text, so that the command line can list names without paying for torch. A test holds it to the functions.
_TABLE = """
affirmative_prefix | prompts.affirmative_prefix | prompts | no | quick | 1 | | begins the reply with an obliging phrase | Wei et al. 2023, arXiv:2307.02483
reworded | prompts.reworded | prompts | no | quick | 1 | | asks in the other words that the data give | Patil, Hase, Bansal 2023, arXiv:2309.17410
format_shift | prompts.format_shift | prompts | no | quick | 8 | | asks in another form, chosen on kept facts | after Lynch et al. 2024, arXiv:2402.16835
repeated_prompt | prompts.repeated_prompt | prompts | no | quick | 2 | | repeats the prompt where gates do not look | after Liu et al. 2024, arXiv:2406.07933
first_letter_hint | prompts.first_letter_hint | prompts | yes | quick | 2 | | gives the answer's first letter away | after Jin et al. 2024, arXiv:2406.10890
reversed_question | prompts.reversed_question | prompts | yes | quick | 1 | | shows the answer and asks whose it is | after Jin et al. 2024, arXiv:2406.10890
forced_choice | prompts.forced_choice | logits | yes | quick | 6 | | compares the answer with wrong ones | Maini et al. 2024, arXiv:2401.06121
few_shot | prompts.few_shot | prompts | no | quick | 4 | | shows some answered questions first | Jin et al. 2024, arXiv:2406.10890
stripped | decoding.stripped | weights | no | quick | 1 | | leaves hooks, gates and combiners out | Vestige
lens_attack | inside.lens_attack | activations | no | quick | 3 | | four candidates off the logit lens | Patil, Hase, Bansal 2023, arXiv:2309.17410
steering | inside.steering | activations | no | quick | 1+4b | | pushes activations back to the original's mean | Vestige, after Turner et al. 2023, arXiv:2308.10248
quantisation | weights.quantisation | weights | no | quick | 1 | kind="int4" | rounds the weights to 4 bits | Zhang et al. 2024, arXiv:2410.16454
relearning | weights.relearning | training | no | quick | 270 | steps=[0,1,2,5,10,20] | teaches half of the facts and asks the others | Deeb, Roger 2024, arXiv:2410.08827
role_play | prompts.role_play | prompts | no | standard | 4 | | gives the model a role | Jin et al. 2024, arXiv:2406.10890
background_hint | prompts.background_hint | prompts | no | standard | 4 | | tells other facts of the subject first | Jin et al. 2024, arXiv:2406.10890
many_shot | prompts.many_shot | prompts | no | standard | 20 | | shows as many answered questions as fit | Anil et al. 2024, Many-shot Jailbreaking
option_letters | prompts.option_letters | logits | yes | standard | 20 | | asks for the letter of the right option | Jin et al. 2024, arXiv:2406.10890
in_context_reintroduction | prompts.in_context_reintroduction | prompts | no | standard | 20 | | gives more and more clues | Shumailov et al. 2024, arXiv:2407.00106
reversed_dola | decoding.reversed_dola | activations | no | standard | 4+1b | | what earlier blocks say and the last does not | after Chuang et al. 2023, arXiv:2309.03883
lower_layer_contrast | decoding.lower_layer_contrast | activations | no | standard | 1+4b | | what a block adds to the one before | after Chen et al. 2024, arXiv:2408.08769
sampled_answers | decoding.sampled_answers | prompts | no | standard | 45 | | draws sixteen replies | Patil, Hase, Bansal 2023, arXiv:2309.17410
rephrasing | decoding.rephrasing | prompts | no | standard | 100 | | draws replies to several wordings | Patil, Hase, Bansal 2023, arXiv:2309.17410
lens_attack:delta | inside.lens_attack | activations | no | standard | 3 | order=1 | candidates off what each block adds | Patil, Hase, Bansal 2023, arXiv:2309.17410
lens_attack:delta2 | inside.lens_attack | activations | no | standard | 3 | order=2 | candidates off how that changes | Patil et al. 2025, arXiv:2505.01456
tuned_lens_attack | inside.tuned_lens_attack | activations | no | standard | 40 | | candidates off a tuned lens of the original | Belrose et al. 2023, arXiv:2303.08112
patchscope | inside.patchscope | activations | no | standard | 1+12b | | moves states into a kept question | Ghandeharioun et al. 2024, arXiv:2401.06102
direction_ablation | inside.direction_ablation | activations | no | standard | 2 | | removes the direction that unlearning added | Lucki et al. 2024, arXiv:2409.18025
direction_ablation:principal | inside.direction_ablation | activations | no | standard | 2 | axis="principal" | removes the first principal direction of the change | Lucki et al. 2024, arXiv:2409.18025
reinjection | weights.reinjection | weights | no | standard | 1 | | puts the original's value vectors back | Vestige, after Hong et al. 2024, arXiv:2406.11614
reinjection:stream | weights.reinjection | activations | no | standard | 10 | into="stream" | adds the original's value vectors to the stream | Vestige, after Hong et al. 2024, arXiv:2406.11614
quantisation:int8 | weights.quantisation | weights | no | standard | 1 | kind="int8" | rounds the weights to 8 bits | Zhang et al. 2024, arXiv:2410.16454
quantisation:nf4 | weights.quantisation | weights | no | standard | 2 | kind="nf4" | rounds the weights to 4-bit normal floats | Zhang et al. 2024, arXiv:2410.16454
relearning:retain | weights.relearning | training | no | standard | 180 | on="retain" steps=[0,1,2,5,10,20] | teaches kept facts alone | Hu et al. 2024, arXiv:2406.13356
relearning:forget | weights.relearning | training | yes | standard | 180 | on="forget" steps=[0,1,2,5,10,20] | teaches the very facts that are asked | Hu et al. 2024, arXiv:2406.13356
relearning:lora | weights.relearning | training | no | standard | 310 | lora=4 steps=[0,1,2,5,10,20] | teaches half of the facts to an adapter | Deeb, Roger 2024, arXiv:2410.08827
latent_pgd | gradients.latent_pgd | gradients | no | standard | 33 | | pushes one block's states, learned on half of the facts | Sheshadri et al. 2024, arXiv:2407.15549
soft_prompt | gradients.soft_prompt | gradients | no | standard | 110 | | free embeddings, learned on half of the facts | Schwinn et al. 2024, arXiv:2402.09063
relearning:control | weights.relearning | training | no | full | 150 | on="control" steps=[0,1,2,5,10,20] | teaches unrelated text | Hu et al. 2024, arXiv:2406.13356
pruning | weights.pruning | weights | no | full | 90 | | cuts weights that suppressing needs | Wei et al. 2024, arXiv:2402.05162
latent_pgd:same | gradients.latent_pgd | gradients | yes | full | 33 | learn_from="same" radius=0.2 | pushes states towards the answers themselves | Sheshadri et al. 2024, arXiv:2407.15549
soft_prompt:same | gradients.soft_prompt | gradients | yes | full | 110 | learn_from="same" | free embeddings, learned on the answers themselves | Schwinn et al. 2024, arXiv:2402.09063
discrete_suffix | gradients.discrete_suffix | gradients | no | full | 200 | | searches a suffix on half of the facts | Zou et al. 2023, arXiv:2307.15043
second_language | prompts.second_language | prompts | no | full | 1 | | asks translations, where they are given | Jin et al. 2024, arXiv:2406.10890
"""  # noqa: E501


def _read(line: str) -> Attack:
    name, home, access, uses_target, suite, passes, settings, says, paper = (cell.strip() for cell in line.split("|"))
    pairs = dict(_setting(pair) for pair in settings.split())
    once, _, per_block = passes.partition("+")
    return Attack(
        name,
        f"vestige.attacks.{home}",
        cast(Access, access),
        uses_target == "yes",
        cast(Suite, suite),
        int(once),
        int(per_block.removesuffix("b") or 0),
        pairs,
        says,
        paper,
    )


def _setting(pair: str) -> tuple[str, Any]:
    name, _, value = pair.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


ATTACKS: Mapping[str, Attack] = {row.name: row for row in map(_read, _TABLE.strip().splitlines())}


def chosen(suite: str | None = None, names: Sequence[str] = ()) -> tuple[Attack, ...]:
    """Return the attacks of a suite and those that are named, in the order of the table.

    Raises:
        VestigeError: There is no such suite or attack.
    """
    suites = get_args(Suite)
    if suite is not None and suite not in suites:
        raise VestigeError(f"no suite {suite!r}; {_near(suite, suites)}there are {', '.join(suites)}")
    unknown = next((name for name in names if name not in ATTACKS), None)
    if unknown is not None:
        raise VestigeError(f"no attack {unknown!r}; {_near(unknown, ATTACKS)}there are {', '.join(ATTACKS)}")
    within = suites[: suites.index(cast(Suite, suite)) + 1] if suite is not None else ()
    return tuple(one for one in ATTACKS.values() if one.suite in within or one.name in names)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
