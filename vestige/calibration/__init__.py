"""Calibration: the audit asked about models whose knowledge is known, and what its numbers are worth."""
