"""Carries out what the room `learning` decides: judges stacks, teaches, swaps, takes back."""
