"""Rotations of three-dimensional space."""
