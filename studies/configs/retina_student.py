_base_ = ["./_base_/retina.py", "./_base_/shapes.py"]
