# `rekd_distill.py` for heads that classify by sigmoids. Each row counts by the teacher's probability of an object in
# it: NTID does not shrink where the teacher sees nothing, and a dense head has a hundred thousand rows of that kind.
# For RetinaNet it was better than all rows alike, for KD and with each seed of docs/study.md.
_base_ = "./rekd_distill.py"
distill = dict(distiller=dict(rows="teacher"))
