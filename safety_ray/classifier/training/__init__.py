"""Training, calibration and measurement of the harm classifier."""
