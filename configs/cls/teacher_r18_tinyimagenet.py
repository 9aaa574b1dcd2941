# The teacher ResNet-18 with a stem for small images; no zoo has one, so train it first.
_base_ = "./_base_/tiny_imagenet.py"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="ResNet_CIFAR", depth=18, stem_channels=64, base_channels=64),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=200, in_channels=512, topk=(1, 5)),
)
