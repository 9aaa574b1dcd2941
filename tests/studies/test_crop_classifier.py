"""The stand-in for ImageNet: it classifies the objects of a batch, and learns to."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from studies.runner.crop_classifier import CropClassifier

BACKBONE = dict(type="ResNet", depth=18, base_channels=8, stem_channels=8, out_indices=(1, 2, 3), norm_eval=False)


def sample(boxes, labels) -> DetDataSample:
    instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.tensor(labels))
    return DetDataSample(gt_instances=instances)


def images_of(count: int) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Images of an object each: category 0 is dark above and bright below, category 1 the other way round."""
    images = 0.1 * torch.randn(count, 3, 64, 64)
    samples = []
    for i in range(count):
        x, y, label = int(torch.randint(0, 32, ())), int(torch.randint(0, 32, ())), i % 2
        sign = 1.0 if label else -1.0
        images[i, :, y : y + 16, x : x + 32] += sign
        images[i, :, y + 16 : y + 32, x : x + 32] -= sign
        samples.append(sample([[float(x), float(y), x + 32.0, y + 32.0]], [label]))
    return images, samples


def build(**changes) -> CropClassifier:
    torch.manual_seed(0)
    return CropClassifier(BACKBONE, num_classes=2, size=32, **changes)


def test_it_cuts_out_the_objects_of_each_image():
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 64, 64).clone()
    images[0, :, 8:24, 16:48] = 5.0
    model = build(margin=0.0, jitter=0.0)
    boxes = [torch.tensor([[16.0, 8.0, 48.0, 24.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 60.0, 60.0]])]
    crops = model._crops(images, boxes)
    assert crops.shape == (3, 3, 32, 32)
    assert crops[0, :, 2:-2, 2:-2].unique().tolist() == [5.0]
    assert crops[1:].unique().tolist() == [1.0]
    wider = build(margin=0.5, jitter=0.0)._crops(images, boxes)
    assert {0.0, 5.0} <= set(wider[0].unique().tolist())  # what is around it


@pytest.mark.slow
def test_it_learns():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    accuracy = []
    for _ in range(40):
        losses = model(*images_of(16), mode="loss")
        optimizer.zero_grad()
        losses["loss_cls"].backward()
        optimizer.step()
        accuracy.append(float(losses["acc"]))
    assert sum(accuracy[-5:]) / 5 > 90 > sum(accuracy[:3]) / 3


def test_only_training_is_offered():
    with pytest.raises(NotImplementedError, match="test the detector"):
        build()(*images_of(2), mode="predict")
