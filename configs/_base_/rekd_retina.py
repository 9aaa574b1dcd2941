# RetinaNet's pairs: background anchors give four fifths of the distillation's gradient. Weighing each row by the
# teacher's probability of an object in it was better than all rows alike, with each seed of docs/study.md.
_base_ = "./rekd.py"
distill = dict(distiller=dict(rows="teacher"))
