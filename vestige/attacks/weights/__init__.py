"""Changing the weights: training them again, rounding them, cutting them, putting vectors back."""
