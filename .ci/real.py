# Cuts a shipped R-CNN pair on real COCO images down to what two CPU cores do in minutes. `real_frcnn.py` and
# `real_mrcnn.py` read these variables into their own keys: two bases must not set the same one.
image = dict(type="LoadImageFromFile")
resize = dict(type="Resize", scale=(256, 160), keep_ratio=True)
flip = dict(type="RandomFlip", prob=0.5)
pack = dict(type="PackDetInputs")
pack_for_test = dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))
few_workers = dict(num_workers=1, persistent_workers=False)
# No network here: neither network starts from published weights, so nothing is learned and mAP stays about 0.
student = dict(
    backbone=dict(init_cfg=None),
    train_cfg=dict(rpn_proposal=dict(max_per_img=200), rcnn=dict(sampler=dict(num=128))),
    # Untrained networks are sure of nothing, and an evaluation needs detections.
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
max_iters = 4
loop = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters, val_begin=1000)
schedule = [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=max_iters)]
hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=max_iters))
