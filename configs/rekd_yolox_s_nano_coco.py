# The loss of _base_/rekd_distill.py, on sigmoids like the head; not measured for this one. All its rows are already
# those of objects.
_base_ = ["mmdet::yolox/yolox_nano_8xb8-300e_coco.py", "./_base_/rekd_distill.py"]
custom_hooks = [*_base_.custom_hooks, *_base_.rekd_hooks]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::yolox/yolox_s_8xb8-300e_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_s_8x8_300e_coco/"
    "yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth",
)
