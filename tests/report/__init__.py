"""Lineages are compared from their ledgers alone; what was not measured alike is refused."""
