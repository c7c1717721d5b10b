"""Diffusion in latent space: schedule, solvers, guidance, conditions. Knows no files and no text."""
