# Control: the student, a quarter of ResNet-18's width, without distillation.
_base_ = "./_base_/tiny_imagenet.py"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet_CIFAR", depth=18, stem_channels=16, base_channels=16),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=200, in_channels=128, topk=(1, 5)),
)
