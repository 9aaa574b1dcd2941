# The loss of _base_/rekd_distill.py. studies/results supports its beta for Faster R-CNN, one seed of Mask R-CNN agrees.
_base_ = ["mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "./_base_/rekd.py"]
model = dict(
    _delete_=True,
    **_base_.distill,
    architecture=_base_.model,
    teacher=dict(cfg_path="mmdet::mask_rcnn/mask-rcnn_r101_fpn_2x_coco.py"),
    teacher_ckpt="https://download.openmmlab.com/mmdetection/v2.0/"
    "mask_rcnn/mask_rcnn_r101_fpn_2x_coco/mask_rcnn_r101_fpn_2x_coco_bbox_mAP-0.408__segm_mAP-0.366_20200505_071027-14b391c7.pth",
)
