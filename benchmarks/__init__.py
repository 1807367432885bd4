"""Benchmarks of speakeasyd against comparable programs.

All use the same recordings, weights and machine, in alternating runs.
"""
