# `rekd_distill.py` for heads that classify with sigmoids. Each row is weighted by the teacher's probability of an
# object in it, because NTID does not shrink where the teacher sees nothing, and a dense head has a hundred thousand
# such rows. For RetinaNet's KD it was better than equal weights, with each of three seeds
# (studies/results/README.md, generated images).
_base_ = "./rekd_distill.py"
distill = dict(distiller=dict(rows="teacher"))
