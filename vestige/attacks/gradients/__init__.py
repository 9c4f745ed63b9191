"""Optimising what goes in, by gradients."""
