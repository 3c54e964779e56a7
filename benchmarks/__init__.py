"""Measurements, each a script of its own; see the README."""
