"""Who's Harry Potter: labels that somebody who never read the text would give, and a model taught to give them."""

from interventions.training.whp.anchors import Anchor, tokenised
from interventions.training.whp.labels import IGNORED, generic_labels, generic_logits
from interventions.training.whp.method import whp
from interventions.training.whp.translate import Translation, translate

__all__ = [
    "IGNORED",
    "Anchor",
    "Translation",
    "generic_labels",
    "generic_logits",
    "tokenised",
    "translate",
    "whp",
]
