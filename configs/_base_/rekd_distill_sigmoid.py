# `rekd_distill.py` for heads that classify with sigmoids. beta is 0.25, because NTID does not shrink where the teacher
# sees nothing, and nearly all of a dense head's rows are such: with beta 1 a RetinaNet lost 1.0 AP against KD
# (docs/study.md, 3 seeds). With 0.25 RetinaNet and GFL gain as much as with KD and no more; so did a small DINO (one
# seed). `tisd='split'` with this beta was 0.3 below 'joint' on GFL, and not significantly different on RetinaNet (3
# seeds). Other heads with sigmoids were not measured.
_base_ = "./rekd_distill.py"
distill = dict(distiller=dict(loss=dict(beta=0.25)))
