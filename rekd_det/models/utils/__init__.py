"""What algorithm, distiller and adapters share."""
