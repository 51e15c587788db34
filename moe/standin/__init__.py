"""Routing without experts: small maps that stand for each layer's experts, fitted to what these give."""
