"""Packages that read through getm, each tested where it is installed."""
