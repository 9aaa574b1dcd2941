_base_ = ["./_base_/groceries_frcnn.py", "./_base_/groceries.py"]
