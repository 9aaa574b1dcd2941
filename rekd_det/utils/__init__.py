"""What every folder of the package may use; nothing here imports another folder."""
