"""What a teacher knows, and what a student learnt of it."""
