# Control: the same pair and schedule with GDKD.
_base_ = "./rekd_frcnn_r101_r18_coco.py"
model = dict(
    distiller=dict(
        loss=dict(_delete_=True, type="mmrazor.GDKDLoss", top_k=5, mass_weight=1.0, head_weight=0.125, tail_weight=0.25)
    )
)
