"""Every fused backend gives the eager formulation's values and gradients."""

import pytest
import torch
from kernel_cases import BACKENDS, LOSS_IDS, LOSSES, assert_equals_oracle, logits, run

from rekd_det.models.losses import DKDLoss, KDLoss, ReKDLoss

pytestmark = pytest.mark.parametrize("backend", BACKENDS)
#: Triton's interpreter takes seconds for these
WIDE = (pytest.mark.slow, pytest.mark.nightly)


@pytest.mark.parametrize(("cls", "options"), LOSSES, ids=LOSS_IDS)
@pytest.mark.parametrize("shape", [(1, 6), (7, 9), pytest.param((19, 81), marks=WIDE)], ids=str)
def test_parts_with_upstream_gradients_of_their_own(backend, cls, options, shape):
    student, teacher = logits(*shape)
    labels = torch.arange(shape[0]) % (shape[1] + 3) - 1  # ignored rows on both sides of the classes
    weight = torch.linspace(0.0, 2.0, shape[0])
    assert_equals_oracle(
        cls,
        options,
        backend,
        student,
        teacher,
        gt_labels=labels,
        weight=weight,
        avg_factor=torch.tensor(3.7),
        upstream=(2.0, -0.5, 0.3),
    )


@pytest.mark.parametrize(("cls", "options"), LOSSES, ids=LOSS_IDS)
def test_same_upstream_gradient_for_all_parts(backend, cls, options):
    student, teacher = logits(11, 12)
    labels = torch.arange(11)
    assert_equals_oracle(cls, options, backend, student, teacher, gt_labels=labels, upstream=(-3.0, -3.0, -3.0))


def test_rows_beyond_one_block(backend):
    student, teacher = logits(2 * 2048 * 80 // 8 + 3, 7) if backend[0] == "fused" else logits(300, 7)
    assert_equals_oracle(ReKDLoss, dict(top_k=2), backend, student, teacher)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [1204, 1200])  # rows of 1200 start at multiples of 16, so Triton loads vectors
def test_lvis_width(backend, activation, classes):
    student, teacher = logits(3, classes)
    assert_equals_oracle(ReKDLoss, dict(top_k=5, activation=activation), backend, student, teacher)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions(backend, reduction, weighted):
    student, teacher = logits(13, 10)
    weight = torch.arange(13) % 3 if weighted else None  # int64, as Mask2Former gives them
    options = dict(top_k=3, reduction=reduction)
    assert_equals_oracle(ReKDLoss, options, backend, student, teacher, weight=weight)


@pytest.mark.parametrize("avg_factor", [4.0, 0.0, torch.tensor(4.0)], ids=str)
def test_avg_factor(backend, avg_factor):
    student, teacher = logits(5, 10)
    weight = torch.zeros(5) if avg_factor == 0.0 else None
    assert_equals_oracle(ReKDLoss, dict(top_k=3), backend, student, teacher, avg_factor=avg_factor, weight=weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "implicit_bg"])
def test_half_precision_is_computed_in_fp32(backend, dtype, activation):
    student, teacher = logits(9, 20, dtype)
    options = dict(top_k=3, activation=activation)
    # The gradient is rounded to the student's dtype, once when computed and once when scaled.
    eps = 2 * torch.finfo(dtype).eps
    assert_equals_oracle(ReKDLoss, options, backend, student, teacher, grad_rtol=eps, upstream=(3.0, 3.0))


def test_student_and_teacher_of_different_dtype(backend):
    student, teacher = logits(9, 20)
    assert_equals_oracle(ReKDLoss, dict(top_k=3), backend, student, teacher.bfloat16())


@pytest.mark.parametrize("k", [*range(1, 10), 12])
def test_every_head_size(backend, k):
    student, teacher = logits(6, k + 1 if k < 9 else 14)
    assert_equals_oracle(ReKDLoss, dict(top_k=k), backend, student, teacher)


@pytest.mark.parametrize(("classes", "k"), [(9, 3), (20, 13), (400, 2)])
@pytest.mark.parametrize("select_by", ["teacher", "student"])
def test_ties_go_to_the_lowest_index(backend, classes, k, select_by):
    # Whole numbers: nearly every row has a tie at the border of its head. The three sizes take the three ways in which
    # the fused engine finds a head.
    student, teacher = (x.round() for x in logits(24, classes))
    teacher[0] = 0.0
    student[0] = 0.0
    assert_equals_oracle(ReKDLoss, dict(top_k=k, select_by=select_by), backend, student, teacher)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(KDLoss, {}), (ReKDLoss, dict(top_k=2)), (ReKDLoss, dict(top_k=2, activation="sigmoid"))],
)
def test_masked_classes(backend, cls, options):
    student, teacher = logits(6, 8)
    student[:, 2] = teacher[:, 2] = float("-inf")
    teacher[1, 5] = float("-inf")  # only the teacher masks it
    assert_equals_oracle(cls, options, backend, student, teacher)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("cls", "options"), [(KDLoss, {}), (ReKDLoss, dict(top_k=2))])
def test_class_that_only_the_student_masks_gets_no_gradient(backend, cls, options, dtype):
    student, teacher = logits(6, 8, dtype)
    student[3, 2] = float("-inf")
    eps = 2 * torch.finfo(dtype).eps
    assert_equals_oracle(cls, options, backend, student, teacher, grad_rtol=max(eps, 1e-5))
    _, grad = run(cls(backend=backend[0], **options), student, teacher, device=backend[1])
    assert grad[3, 2] == 0
    assert grad.isfinite().all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "implicit_bg"])
@pytest.mark.parametrize("tau", [0.1, 0.5, 1.0, 4.0])
def test_tail_that_is_masked_altogether(backend, activation, tau):
    student, teacher = logits(4, 6)
    student[0, 2:] = teacher[0, 2:] = float("-inf")
    teacher[1, 2:] = float("-inf")  # only the teacher masks it
    assert_equals_oracle(ReKDLoss, dict(top_k=2, activation=activation, tau=tau), backend, student, teacher)


def test_target_class_that_is_masked(backend):
    student, teacher = logits(4, 6)
    student[:, 1] = teacher[:, 1] = float("-inf")
    assert_equals_oracle(DKDLoss, {}, backend, student, teacher, gt_labels=torch.tensor([1, 0, 1, 5]))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "implicit_bg"])
@pytest.mark.parametrize("k", [1, 3])
def test_huge_logits(backend, activation, k):
    student, teacher = logits(8, 9)
    # Heads that hold all the mass, tails far below them, and the two sides at odds.
    student, teacher = student * 2e3, teacher * 2e3
    teacher[0], student[0] = teacher[0].sign() * 1e4, student[0].sign() * -1e4
    options = dict(top_k=k, activation=activation)
    assert_equals_oracle(ReKDLoss, options, backend, student, teacher)


@pytest.mark.parametrize("view", ["transposed", "strided"])
def test_inputs_that_are_not_contiguous(backend, view):
    student, teacher = logits(12, 12)
    if view == "transposed":
        student, teacher = student.t(), teacher.t()
    else:
        student, teacher = student[::2, 1::2], teacher[1::2, ::2]
    assert not student.is_contiguous()
    assert_equals_oracle(ReKDLoss, dict(top_k=3), backend, student, teacher)


@pytest.mark.parametrize(("cls", "options"), LOSSES, ids=LOSS_IDS)
def test_teacher_equal_to_student_costs_nothing(backend, cls, options):
    student, _ = logits(9, 11)
    labels = torch.arange(9)
    out, grad = run(cls(backend=backend[0], **options), student, student.clone(), device=backend[1], gt_labels=labels)
    losses = [float(v) for k, v in out.items() if "loss" in k]
    assert losses == [0.0] * len(losses)
    assert not grad.any()
