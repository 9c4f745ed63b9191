"""Attacks: each asks one subject for what it was made to forget, in one way that it was not defended against."""
