"""Generative model families behind one contract."""
