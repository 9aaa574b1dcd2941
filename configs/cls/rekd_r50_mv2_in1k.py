# ResNet-50 teaches MobileNetV2, with the loss of _base_/rekd_distill.py; nothing was tuned on ImageNet.
_base_ = ["./student_mv2_in1k.py", "../_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmpretrain::resnet/resnet50_8xb32_in1k.py"),
    teacher_ckpt="https://download.openmmlab.com/mmclassification/v0/resnet/resnet50_8xb32_in1k_20210831-ea4938fc.pth",
)
