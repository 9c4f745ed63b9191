"""Metrics as pure functions of numbers and arrays, one family per file; they know nothing of models.

Each docstring states the formula, `higher_is` (`leaky`, `forgotten`, `useful` or `changed`), the range, the floor and
the source. Most functions score one item, and `bootstrap` turns the scores of all items into an estimate with an
interval.
"""
