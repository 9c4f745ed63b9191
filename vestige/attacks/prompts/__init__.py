"""Asking in other ways."""
