"""Backends: what computes samples and their gradients. None knows of autograd; see rendering/autograd.py."""
