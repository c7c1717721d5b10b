"""Generators: conditions in, CT out. One file per published system, one interface."""
