"""Mixtures of Gaussians, their parameters, and the optimiser."""
