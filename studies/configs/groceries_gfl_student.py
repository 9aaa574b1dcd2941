_base_ = ["./_base_/groceries_gfl.py", "./_base_/groceries.py"]
