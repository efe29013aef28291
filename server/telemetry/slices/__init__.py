"""The search for the slices where the model is worst: pure maths."""
