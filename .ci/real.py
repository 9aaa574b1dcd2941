# The shipped Mask R-CNN R101-R18 pair on real COCO images, cut down to what two CPU cores do in minutes.
_base_ = ["../configs/rekd_mrcnn_r101_r18_coco.py"]

small = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(256, 160), keep_ratio=True),
]
pack = dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))
few_workers = dict(num_workers=1, persistent_workers=False)
train_pipeline = [*small, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]
train_dataloader = dict(**few_workers, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(**few_workers, dataset=dict(pipeline=[*small, pack]))
test_dataloader = val_dataloader
# No network here: neither network starts from published weights, so nothing is learned and mAP stays about 0.
model = dict(
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
