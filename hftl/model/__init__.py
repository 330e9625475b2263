"""Models: layer groups, heads, adapters, and what trains them."""
