"""Renders libraries and the website from a checkout: `python -m builder plan|render|portal|serve`."""
