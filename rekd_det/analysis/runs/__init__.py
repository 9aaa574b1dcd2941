"""What training runs logged, side by side."""
