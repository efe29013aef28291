"""Accuracy, calibration and value, as pure maths over counts."""
