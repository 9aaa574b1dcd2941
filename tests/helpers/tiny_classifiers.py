"""Tiny classifiers of MMPretrain, one for each kind of head, and batches for them."""

import copy

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from rekd_det.utils.fixed_layers import fix_norms_and_dropout

NUM_CLASSES = 10
SIDE = 32
#: what a head is given by the backbone that it was made for
FEATURES = {
    "vector": lambda x: x,
    "map": lambda x: x[:, :, None, None].expand(-1, -1, 2, 2),
    "two": lambda x: [x, x.flip(1)],
}


@ROOT_MODELS.register_module()
class TinyFeatures(BaseModule):
    """One convolution, and its mean over the image in the form that a head expects."""

    def __init__(self, channels=8, form="vector"):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 5, stride=2)
        self.form = form

    def forward(self, x):
        return (FEATURES[self.form](self.conv(x).relu().mean((2, 3))),)


def _features(form, head):
    return dict(backbone=dict(type="TinyFeatures", form=form), head=head)


def _vit(kind, head, **kwargs):
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    return dict(backbone=dict(type=kind, arch=arch, img_size=SIDE, patch_size=8, **kwargs), head=head)


_LINEAR = dict(num_classes=NUM_CLASSES, in_channels=8)
MODELS_BY_HEAD = {
    "LinearClsHead": dict(
        backbone=dict(type="ResNet", depth=18, stem_channels=8, base_channels=8),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=NUM_CLASSES, in_channels=64),
    ),
    "ClsHead": _features("vector", dict(type="ClsHead")),
    "StackedLinearClsHead": _features(
        "vector", dict(type="StackedLinearClsHead", mid_channels=[16], dropout_rate=0.0, **_LINEAR)
    ),
    "VisionTransformerClsHead": _vit(
        "VisionTransformer", dict(type="VisionTransformerClsHead", num_classes=NUM_CLASSES, in_channels=16)
    ),
    "DeiTClsHead": _vit(
        "DistilledVisionTransformer", dict(type="DeiTClsHead", num_classes=NUM_CLASSES, in_channels=16)
    ),
    "LeViTClsHead": _features("vector", dict(type="LeViTClsHead", distillation=False, **_LINEAR)),
    "EfficientFormerClsHead": _features("vector", dict(type="EfficientFormerClsHead", distillation=False, **_LINEAR)),
    "VigClsHead": _features("vector", dict(type="VigClsHead", hidden_dim=16, **_LINEAR)),
    "ConformerHead": _features("two", dict(type="ConformerHead", num_classes=NUM_CLASSES, in_channels=[8, 8])),
    "MultiLabelClsHead": _features("vector", dict(type="MultiLabelClsHead")),
    "MultiLabelLinearClsHead": _features("vector", dict(type="MultiLabelLinearClsHead", **_LINEAR)),
    "CSRAClsHead": _features("map", dict(type="CSRAClsHead", num_heads=1, lam=0.1, **_LINEAR)),
    "ArcFaceClsHead": _features("vector", dict(type="ArcFaceClsHead", **_LINEAR)),
}
for _name in ("ClsHead", "MultiLabelClsHead"):  # the backbone's channels are the logits
    MODELS_BY_HEAD[_name]["backbone"]["channels"] = NUM_CLASSES


def config(head="LinearClsHead", **preprocessor):
    """The model config of a classifier with a kind of head."""
    model = ConfigDict(type="ImageClassifier", _scope_="mmpretrain", **copy.deepcopy(MODELS_BY_HEAD[head]))
    model.data_preprocessor = dict(
        num_classes=NUM_CLASSES, mean=[120.0, 110.0, 100.0], std=[60.0, 55.0, 50.0], to_rgb=True, **preprocessor
    )
    return model


def classifier(model):
    """Build a classifier whose logits differ from image to image, in training mode, its norms and dropouts fixed."""
    torch.manual_seed(0)
    built = MODELS.build(copy.deepcopy(model))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # MMPretrain's heads start near 0, ViT's at 0
        for name, p in built.named_parameters():
            if name.startswith("head.") and p.dim() > 1:
                p.copy_(torch.randn(p.shape, generator=generator))
    return settled(built.train())


def settled(model):
    """Norms and dropouts in eval mode: a teacher that is a copy then computes the same."""
    fix_norms_and_dropout(model)
    return model


def pair(head="LinearClsHead", loss=None, teacher=None, **kwargs):
    """A pair; without ``teacher``, the teacher is a copy of the student. Keywords as for ``config``."""
    model = config(head, **kwargs)
    student = classifier(model)
    teacher = copy.deepcopy(student) if teacher is None else teacher
    return distilled(student, teacher, loss)


def distilled(student, teacher, loss=None, **kwargs):
    """ReKDDistill around built networks."""
    distiller = dict(type="mmrazor.ReKDDistiller", loss=loss or dict(type="ReKDLoss", top_k=3), **kwargs)
    algorithm = dict(type="mmrazor.ReKDDistill", architecture=student, teacher=teacher, distiller=distiller)
    return settled(MODELS.build(algorithm).train())


def batch(model, images=6, seed=0, labels=1):
    """A preprocessed training batch."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (images, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    samples = [
        DataSample(metainfo=dict(num_classes=NUM_CLASSES)).set_gt_label(
            torch.randperm(10, generator=generator)[:labels]
        )
        for _ in range(images)
    ]
    return model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
