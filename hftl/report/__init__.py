"""What a finished run shows of itself, from its folder alone: curves and model card."""
