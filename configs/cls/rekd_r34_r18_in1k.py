# ResNet-34 teaches ResNet-18, with the loss of _base_/rekd_distill.py; nothing was tuned on ImageNet.
_base_ = ["./student_r18_in1k.py", "../_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmpretrain::resnet/resnet34_8xb32_in1k.py"),
    teacher_ckpt="https://download.openmmlab.com/mmclassification/v0/resnet/resnet34_8xb32_in1k_20210831-f257d4e6.pth",
)
