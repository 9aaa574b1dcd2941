# ReKD on the logits and PKD on the feature maps of one step. On photographs (docs/study.md) it is 0.7 AP above PKD
# alone (5 seeds); from a teacher of more photographs 1.2, and with crops and a longer schedule 1.2 (3 seeds each); in
# an earlier study with crops 0.2 (not significant). KD beside PKD does not differ significantly from it. PKD's weight
# is that of MMRazor's config for a ResNet-50.
_base_ = "./rekd_frcnn_r101_r18_coco.py"
pkd = dict(type="mmrazor.PKDLoss", loss_weight=6.0, levels=[0, 1, 2, 3])
model = dict(distiller=dict(feature_losses=dict(loss_pkd=pkd)))
