# A strong teacher: a ResNet-50 of half its width with the proposals of a full test.
_base_ = "./groceries_frcnn_teacher.py"
model = dict(
    backbone=dict(depth=50),
    neck=dict(in_channels=[256, 512, 1024]),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(max_per_img=100)),
)
