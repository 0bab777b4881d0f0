"""Hostile programs by what they are after, their victim, and how what they did is judged."""
