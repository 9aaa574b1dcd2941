# The shipped R101-R18 pair, real models on real COCO images, cut down to what two CPU cores do in minutes.
_base_ = "../configs/rekd_frcnn_r101_r18_coco.py"

small = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(256, 160), keep_ratio=True),
]
meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
train_dataloader = dict(
    num_workers=1,
    persistent_workers=False,
    dataset=dict(pipeline=[*small, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]),
)
val_dataloader = dict(
    num_workers=1,
    persistent_workers=False,
    dataset=dict(pipeline=[*small, dict(type="PackDetInputs", meta_keys=meta)]),
)
test_dataloader = val_dataloader
model = dict(
    # No network here: neither network starts from published weights, so nothing is learned and mAP stays about 0.
    architecture=dict(
        backbone=dict(init_cfg=None),
        train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=128))),
        # Untrained networks are sure of nothing, and an evaluation needs detections.
        test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
    )
)
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=4, val_begin=1000)
param_scheduler = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=4)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=4))
log_processor = dict(by_epoch=False)
