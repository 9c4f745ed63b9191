"""Logit lens on the organism: at which depth does the answer become readable?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .phrasing import Prompt

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


def answer_ranks(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]
) -> torch.Tensor:
    """Rank of each answer's first token at the last prompt position, by depth.

    The embedding output and every block's output are read through the final norm (applied once) and the unembedding.

    Returns:
        Integers `[n_layers + 1, n_prompts]`, embeddings first; 0 means that the answer is the most likely token.
    """
    import torch

    ids = [tokenizer(p.prompt).input_ids for p in prompts]
    first = torch.tensor([tokenizer(p.answer, add_special_tokens=False).input_ids[0] for p in prompts])
    last = torch.tensor([len(row) - 1 for row in ids])
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
    found: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        hidden = output if isinstance(output, torch.Tensor) else output[0]
        found.append(hidden[torch.arange(len(ids)), last])

    handles = [m.register_forward_hook(keep) for m in (model.model.embed_tokens, *model.model.layers)]
    try:
        with torch.no_grad():
            model(input_ids=padded, use_cache=False)
            logits = model.lm_head(model.model.norm(torch.stack(found)))
    finally:
        for handle in handles:
            handle.remove()
    target = logits.gather(-1, first.expand(len(found), -1)[..., None])
    ranks: torch.Tensor = (logits > target).sum(-1)
    return ranks
