_base_ = ["./_base_/groceries_retina.py", "./_base_/groceries.py"]
