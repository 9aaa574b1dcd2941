# Control: the student ResNet-18 without distillation.
_base_ = "mmpretrain::resnet/resnet18_8xb32_in1k.py"
