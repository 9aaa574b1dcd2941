# A strong teacher: a ResNet-50 of half its width with the proposals of a full test. `studies/strong_teacher.yml` trains
# it for twice as long as `frcnn_teacher.py`.
_base_ = ["./_base_/frcnn.py", "./_base_/teacher_schedule.py"]
model = dict(
    backbone=dict(depth=50, base_channels=32, stem_channels=32),
    neck=dict(in_channels=[256, 512, 1024]),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=100)),
)
