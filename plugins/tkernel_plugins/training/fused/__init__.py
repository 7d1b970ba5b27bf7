"""Calculations of a training step with less memory and fewer passes over it, and the same result.

Nothing here changes what is computed, only the order of rounding; what replaces a part of a model is tried
against that part on random input first, and left out where the two differ.
"""
