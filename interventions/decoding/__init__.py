"""Methods that change no weight: they combine a model's next-token distribution with those of others."""

from interventions.decoding.assistant import Assistant, Checkpoint, Loaded
from interventions.decoding.combiner import LogitCombiner, Term
from interventions.decoding.dola import dola
from interventions.decoding.early_exit import NoteStream, notes
from interventions.decoding.icd import icd
from interventions.decoding.lol import lol
from interventions.decoding.offset import logit_offset, offset_unlearning
from interventions.decoding.plausible import Plausible
from interventions.decoding.uld import uld
from interventions.decoding.whp_ensemble import whp_ensemble

__all__ = [
    "Assistant",
    "Checkpoint",
    "Loaded",
    "LogitCombiner",
    "NoteStream",
    "Plausible",
    "Term",
    "dola",
    "icd",
    "logit_offset",
    "lol",
    "notes",
    "offset_unlearning",
    "uld",
    "whp_ensemble",
]
