"""Texts: columns, tokens, windows, and questions on them."""
