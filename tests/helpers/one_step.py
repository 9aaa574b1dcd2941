"""One step of a pair, and what the tests look at afterwards."""

import copy
from dataclasses import dataclass, field

import torch
from same_bits import assert_equal
from tiny import total

from rekd_det.models.utils.taps import TapSet


@dataclass
class Step:
    """Losses of one step, the aligned rows, and the teacher's feature maps."""

    losses: dict
    rows: list
    feats: list = field(default_factory=list)

    @property
    def distill(self):
        return distillation(self.losses)


def run_step(model, batch) -> Step:
    """One training step, with a look at what the adapter aligns."""
    step = Step({}, [])

    def keep(args, kwargs, aligned):
        step.feats, step.rows = list(args[0]), aligned

    with TapSet() as taps:
        taps.add_method(model.distiller.adapter, "align", keep)
        step.losses = model(**copy.deepcopy(batch), mode="loss")
    return step


def captured_step(model, data):
    """The losses of one step and the aligned rows."""
    step = run_step(model, data)
    return step.losses, step.rows


def beside_plain(model, data):
    """A pair's losses of one step, a plain copy of its student, and that copy's losses, which are the same bit for bit.

    Both steps draw the same random numbers.
    """
    plain = copy.deepcopy(model.architecture)
    torch.manual_seed(5)
    ours = model(**copy.deepcopy(data), mode="loss")
    torch.manual_seed(5)
    theirs = plain(**copy.deepcopy(data), mode="loss")
    assert_equal({key: ours[key] for key in theirs}, theirs, "losses")
    return ours, plain, theirs


def distillation(losses):
    """The distillation's share of a step's losses."""
    return {k: v for k, v in losses.items() if k.startswith("distill.") and "loss" in k}


def assert_no_pull(model, losses, tolerance=0.0):
    """Losses of at most ``tolerance``, and no gradient but rounding's."""
    assert losses
    assert all(v.abs() <= tolerance for v in losses.values())
    total(losses).backward()
    gradients = [p.grad.abs().max() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    assert gradients
    assert max(gradients) < max(1e-6, 10 * tolerance)
