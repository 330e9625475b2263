"""What a run is declared by, and what it leaves open."""
