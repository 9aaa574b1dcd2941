"""One step of a pair, and what the tests look at afterwards."""

import copy
from dataclasses import dataclass, field

import pytest
import torch
from same_bits import assert_equal
from tiny import forward_hooks, total

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


def assert_same_gradients(losses, model, plain_losses, plain):
    """The student of a pair and its plain copy, see :func:`beside_plain`, learn the same from their losses."""
    total(losses).backward()
    total(plain_losses).backward()
    for (key, p), q in zip(plain.named_parameters(), model.architecture.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        assert p.grad is None or torch.equal(p.grad, q.grad), key


def traces(model, *modules):
    """What a step may leave behind if it does not clean up: hooks of the student, and attributes of some modules."""
    return forward_hooks(model.architecture), [set(vars(module)) for module in modules]


def assert_leaves_nothing(model, batch, *modules):
    """A step runs the student once, leaves no :func:`traces`, and the teacher as it was."""
    before, buffers, calls = traces(model, *modules), [b.clone() for b in model.teacher.buffers()], []
    handle = model.architecture.backbone.register_forward_hook(lambda *_: calls.append(1))
    run_step(model, batch)
    handle.remove()
    assert len(calls) == 1
    assert traces(model, *modules) == before
    assert not any(m.training for m in model.teacher.modules())
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.teacher.buffers(), strict=True))


def fail_in_the_teacher(model, batch):
    """A step whose teacher raises, with the taps on the student in place."""

    def boom(*_):
        raise RuntimeError("boom")

    model.teacher.extract_feat = boom
    with pytest.raises(RuntimeError, match="boom"):
        model(**copy.deepcopy(batch), mode="loss")
    del model.teacher.extract_feat


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
