_base_ = "mmdet::gfl/gfl_r50_fpn_1x_coco.py"
