"""What every room may use; nothing here imports another room."""
