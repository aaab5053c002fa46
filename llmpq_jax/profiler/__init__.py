"""Measures what planning needs: layers, ends and links, on each kind of device."""
