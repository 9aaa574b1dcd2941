"""Where a student is right, counted by hand."""

import pytest
import torch

from rekd_det.analysis.teacher.image_accuracy import ImageAccuracy


def test_four_images_by_hand():
    # Four images of four classes; the teacher's top 2 are (0, 1), (1, 0), (2, 3), (2, 3), less and less sure.
    teacher = torch.tensor([[9.0, 5, 0, 0], [5.0, 6, 0, 0], [0.0, 0, 4, 3], [0.0, 0, 1.1, 1]])
    labels = torch.tensor([0, 0, 2, 1])
    student = torch.tensor([[3.0, 1, 0, 0], [1.0, 0, 0, 9], [0.0, 9, 1, 2], [0.0, 9, 1, 0]])
    found = ImageAccuracy(2)
    found.add(student[:2], teacher[:2], labels[:2])
    found.add(student[2:], teacher[2:], labels[2:])
    result = found.result()
    assert result["top1"] == 0.5  # the first and the last
    assert result["teacher"] == 0.5  # the first and the third
    assert result["label_in_set"] == 0.75
    assert result["top1_in_set"] == pytest.approx(2 / 3)  # the second as well: 9 is outside of the teacher's set
    assert (result["easy"], result["part2"], result["part3"], result["hard"]) == (1, 0, 0, 1)


def test_nothing_is_no_result():
    with pytest.raises(ValueError, match="no image"):
        ImageAccuracy(2).result()
