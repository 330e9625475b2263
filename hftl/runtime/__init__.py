"""The machine: processes, precision, randomness."""
