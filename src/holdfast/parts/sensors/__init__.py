"""Sensor recordings: read from tables and pipes, resampled, cut into windows, answered with timelines."""
