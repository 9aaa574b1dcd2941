# ReKD on the logits and PKD on the feature maps of one step; PKD's weight is that of MMRazor's config for this pair.
_base_ = "./rekd_frcnn_r101_r50_coco.py"
pkd = dict(type="mmrazor.PKDLoss", loss_weight=6.0, levels=[0, 1, 2, 3])
model = dict(distiller=dict(feature_losses=dict(loss_pkd=pkd)))
