"""Methods that learn weights: each is a loss, descended on a copy of the model by `train`."""

from interventions.training.circuit_breakers import circuit_breakers
from interventions.training.descent import Descent, LossFn, Minibatch, forget_nll, retain_nll
from interventions.training.distilled_removal import distillation_loss, distilled_removal
from interventions.training.flat import flat, flat_loss, mean_token_probability
from interventions.training.gradient_ascent import gradient_ascent
from interventions.training.gradient_ascent_kl import gradient_ascent_kl
from interventions.training.gradient_difference import gradient_difference
from interventions.training.idk_dpo import idk_dpo, idk_dpo_loss
from interventions.training.idk_finetune import idk_finetune
from interventions.training.llmu import llmu, llmu_loss
from interventions.training.loku import ihl_loss, loku
from interventions.training.losses import AnswerNLL, answer_nll, cross_entropy
from interventions.training.npo import npo
from interventions.training.rmu import rmu
from interventions.training.simnpo import simnpo, simnpo_loss
from interventions.training.task_vector import task_vector
from interventions.training.train import Trained, Training, train
from interventions.training.undial import logit_gap, undial, undial_loss
from interventions.training.wga import wga, wga_loss
from interventions.training.whp import generic_logits, whp

__all__ = [
    "AnswerNLL",
    "Descent",
    "LossFn",
    "Minibatch",
    "Trained",
    "Training",
    "answer_nll",
    "circuit_breakers",
    "cross_entropy",
    "distillation_loss",
    "distilled_removal",
    "flat",
    "flat_loss",
    "forget_nll",
    "generic_logits",
    "gradient_ascent",
    "gradient_ascent_kl",
    "gradient_difference",
    "idk_dpo",
    "idk_dpo_loss",
    "idk_finetune",
    "ihl_loss",
    "llmu",
    "llmu_loss",
    "logit_gap",
    "loku",
    "mean_token_probability",
    "npo",
    "retain_nll",
    "rmu",
    "simnpo",
    "simnpo_loss",
    "task_vector",
    "train",
    "undial",
    "undial_loss",
    "wga",
    "wga_loss",
    "whp",
]
