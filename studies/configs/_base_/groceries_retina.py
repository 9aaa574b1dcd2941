# The studies' RetinaNet for photographs of 128 pixels.
_base_ = ["./retina.py", "./groceries.py"]

model = dict(bbox_head=dict(num_classes=25, anchor_generator=dict(octave_base_scale=4)))
