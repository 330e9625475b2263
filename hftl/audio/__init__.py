"""Sounds: read, cut into windows, as random views, and through spectrograms."""
