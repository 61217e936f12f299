"""Validation of networks: what they reach against what was asked, as a folder of JSON and pictures."""
