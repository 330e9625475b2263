"""Frozen is free: what a phase does not train is computed once, stored, and replayed."""
