"""Particle images with their poses and CTFs, and what is measured and mended on them before a fit."""
