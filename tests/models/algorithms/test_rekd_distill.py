"""ReKDDistill as a model: what it holds, saves, moves and refuses."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.runner.checkpoint import load_state_dict
from mmrazor.models.algorithms import SingleTeacherDistill
from tiny import batch, build, build_pair, perturb, tiny_rcnn, total

from rekd_det.models.utils import finite_guard
from rekd_det.models.utils.finite_guard import NonFiniteLoss
from rekd_det.utils.errors import InputError


@pytest.fixture
def model():
    return build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn())))


def test_is_an_mmrazor_algorithm(model):
    assert isinstance(model, SingleTeacherDistill)
    assert model.student is model.architecture


@pytest.mark.parametrize("named", [lambda file: dict(cfg_path=file), str])
def test_a_student_by_the_file_of_its_config(tmp_path, named):
    file = tmp_path / "student.py"
    file.write_text(f"default_scope = 'mmdet'\nmodel = {tiny_rcnn().to_dict()!r}\n")
    student = build_pair(tiny_rcnn(), architecture=named(str(file))).student
    assert student.state_dict().keys() == build(tiny_rcnn()).state_dict().keys()


def test_losses_are_one_flat_dict(model):
    losses = model(**batch(model), mode="loss")
    own = {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "acc"}
    assert set(losses) == own | {"distill.loss_tisd", "distill.loss_ntid", "distill.head_mass", "distill.agreement"}
    assert 0 < losses["distill.head_mass"] <= 1
    parsed, log = model.parse_losses(losses)
    torch.testing.assert_close(parsed, total(losses))
    assert "distill.head_mass" in log


def test_a_loss_that_would_be_lost_is_an_error(model, monkeypatch):
    adapter, loss = model.distiller.adapter, model.distiller.loss
    with monkeypatch.context() as twice:
        align = adapter.align
        twice.setattr(adapter, "align", lambda *given: align(*given) * 2)
        with pytest.raises(InputError, match=r"RCNNAdapter gave two sets of rows tag='', so 'loss_tisd' of one"):
            model(**batch(model), mode="loss")
    monkeypatch.setattr(loss, "components", lambda student, *_: ({"kd": student.sum()}, {}))
    with pytest.raises(InputError, match="ReKDLoss has a part 'kd', which would be logged and not minimised"):
        model(**batch(model), mode="loss")


def test_teacher_is_in_no_checkpoint_optimizer_or_copy(model):
    student = model.architecture.state_dict()
    assert set(model.state_dict()) == {f"architecture.{k}" for k in student}
    ours = {id(p) for p in model.parameters()}
    assert not ours & {id(p) for p in model.teacher.parameters()}
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type="SGD", lr=0.1)))
    held = {id(p) for g in wrapper.param_groups for p in g["params"]}
    assert {id(p) for p in model.architecture.parameters() if p.requires_grad} <= held <= ours
    assert not held & {id(p) for p in model.teacher.parameters()}
    ema = ExponentialMovingAverage(model)
    assert ema.module.teacher is model.teacher
    assert ema.module.architecture is not model.architecture
    assert ema.module.distiller.adapter.student is ema.module.architecture.roi_head
    assert ema.module.distiller.adapter.teacher is model.teacher.roi_head


def test_a_copy_shares_what_an_adapter_keeps_of_the_teacher(model):
    model.distiller.adapter.kept = [*model.teacher.parameters(), *model.teacher.buffers()]
    kept = ExponentialMovingAverage(model).module.distiller.adapter.kept
    assert all(a is b for a, b in zip(kept, model.distiller.adapter.kept, strict=True))


def test_a_copy_on_another_device_leaves_the_teacher_where_it_is(model):
    averaged = ExponentialMovingAverage(model, device="meta")  # as `EMAHook(device="cpu")` on a GPU
    assert all(p.is_meta for p in averaged.module.parameters())
    assert not any(p.is_meta for p in (*model.teacher.parameters(), *model.teacher.buffers()))
    total(model(**batch(model), mode="loss")).backward()


def test_train_leaves_the_teacher_in_eval(model):
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.architecture.training is mode
        assert not any(m.training for m in model.teacher.modules())


def test_teacher_gets_no_gradient(model):
    total(model(**batch(model), mode="loss")).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.architecture.parameters() if p.requires_grad)


def test_teacher_moves_with_the_model(model):
    model.to(torch.float64)
    assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
    model.to("meta")
    assert next(model.teacher.parameters()).is_meta


def test_prediction_is_the_students(model):
    model.eval()
    data = batch(model)
    ours = model(**copy.deepcopy(data), mode="predict")
    theirs = model.architecture(**copy.deepcopy(data), mode="predict")
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)


def test_a_training_step_moves_the_student_towards_the_teacher():
    model = build_pair(tiny_rcnn(), teacher=perturb(build(tiny_rcnn()), 0.02), calculate_student_loss=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    history = []
    for _ in range(12):
        torch.manual_seed(0)
        losses = model(**batch(model), mode="loss")
        assert all(k.startswith("distill.") for k in losses)
        optimizer.zero_grad()
        total(losses).backward()
        optimizer.step()
        history.append(total(losses).item())
    assert history[-1] < 0.7 * history[0]


def test_a_teacher_that_is_not_needed_leaves_the_students_device(model, monkeypatch):
    moves = []
    monkeypatch.setattr(model.teacher, "to", lambda device: moves.append(torch.device(device).type))
    monkeypatch.setattr(model.teacher, "_apply", lambda *args: moves.append("applied"))
    model.distillation_stopped = True
    model.to("meta")  # where the student goes now, the teacher does not follow
    assert moves == ["cpu"]
    model.distillation_stopped = False
    assert moves == ["cpu", "meta"]
    assert not model.distillation_stopped


def test_bf16_autocast_trains(model):
    data = batch(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(**data, mode="loss")
    assert all(torch.isfinite(v).all() for v in losses.values() if torch.is_tensor(v))
    assert losses["distill.loss_tisd"].dtype == torch.float32
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_loads_its_own_and_a_plain_checkpoint(model):
    other = perturb(build(tiny_rcnn()), seed=9)
    plain = other.state_dict()
    for weights in (plain, {f"architecture.{k}": v for k, v in plain.items()}):
        fresh = build_pair(tiny_rcnn())
        load_state_dict(fresh, copy.copy(weights), strict=True)
        assert all(torch.equal(fresh.architecture.state_dict()[k], v) for k, v in plain.items())
        twin = build_pair(tiny_rcnn())
        twin.load_state_dict(weights)  # torch's own loader
        assert all(torch.equal(twin.architecture.state_dict()[k], v) for k, v in plain.items())


def test_only_the_leading_prefix_counts():
    model = build_pair(tiny_rcnn())
    model.architecture.backbone.add_module("architecture", torch.nn.Linear(2, 2))
    weights = model.state_dict()
    assert "architecture.backbone.architecture.weight" in weights
    assert not model.load_state_dict(weights).missing_keys


def test_mmrazor_checkpoint_with_a_teacher_inside(model):
    weights = model.state_dict()
    weights.update({f"teacher.{k}": v for k, v in model.teacher.state_dict().items()})
    result = model.load_state_dict(weights)
    assert not result.missing_keys
    assert not result.unexpected_keys


def test_a_run_in_fp16_survives_an_overflow_and_not_many_in_a_row(model, monkeypatch):
    """The gradient scaler leaves such a step out, and halves its factor. The detectors stay in fp32 here, for speed."""
    patience = 4
    monkeypatch.setattr(finite_guard, "PATIENCE", patience)
    teacher_says = {}

    def overflow(module, args, output):
        if "first" in teacher_says:
            output[0, 0] = teacher_says["first"]

    model.teacher.roi_head.bbox_head.fc_cls.register_forward_hook(overflow)
    compute = model.distiller.compute_distill_losses

    def compute_in_fp16(*args):
        with torch.autocast("cpu", torch.float16):
            return compute(*args)

    monkeypatch.setattr(model.distiller, "compute_distill_losses", compute_in_fp16)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    data = batch(model)

    def step():
        optimizer.zero_grad()
        scaler.scale(total(model(**copy.deepcopy(data), mode="loss"))).backward()
        scaler.step(optimizer)
        scaler.update()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = step()
    teacher_says["first"] = float("inf")
    for _ in range(patience - 1):
        weights = step()
    assert torch.equal(weights, first)
    assert scaler.get_scale() == 2.0 ** (8 - (patience - 1))
    teacher_says.clear()  # a good step: the count starts anew
    assert not torch.equal(step(), first)
    teacher_says["first"] = float("inf")
    for _ in range(patience - 1):
        step()
    with pytest.raises(NonFiniteLoss, match=r"the teacher's logits hold NaN or \+inf"):
        step()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(teacher_trainable=True), ValueError, "model.teacher_trainable"),
        (dict(student_trainable=False), ValueError, "model.student_trainable"),
        (dict(distiller=dict(type="mmrazor.ReKDDistiller")), TypeError, "loss"),
        (dict(distiller=dict(type="mmrazor.ReKDDistiller", loss="ReKDLoss")), TypeError, "model.distiller.loss"),
        (
            dict(distiller=dict(type="mmrazor.ReKDDistiller", loss=dict(type="DISTLoss", backend="fused"))),
            ValueError,
            "DISTLoss: a loss without kernel_spec.. has no fused form, so backend must be 'auto' or 'eager'",
        ),
        (dict(architecture=torch.nn.Linear(1, 1)), TypeError, "architecture should be"),
    ],
)
def test_bad_configs_fail_when_built(changes, error, message):
    config = dict(
        type="mmrazor.ReKDDistill",
        architecture=tiny_rcnn(),
        teacher=build(tiny_rcnn()),
        distiller=dict(type="mmrazor.ReKDDistiller", loss=dict(type="ReKDLoss", top_k=3)),
    )
    with pytest.raises(error, match=message):
        MODELS.build(config | changes)


LOSSES = ["KDLoss", "DKDLoss", "GDKDLoss", "TISDLoss", "NTIDLoss", "DISTLoss", "mmrazor.ReKDLoss"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_works_in_the_distiller(loss):
    model = build_pair(tiny_rcnn(), loss=dict(type=loss), teacher=perturb(build(tiny_rcnn())))
    losses = model(**batch(model), mode="loss")
    distill = [v for k, v in losses.items() if k.startswith("distill.loss")]
    assert distill
    assert all(v > 0 for v in distill)
