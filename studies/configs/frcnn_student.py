_base_ = ["./_base_/frcnn.py", "./_base_/shapes.py"]
