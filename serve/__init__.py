"""Serve bundles on devices: manifest, targets, engines, batching, and the Open Inference Protocol over HTTP.

Relies on ``deps.ground`` and the base install, never on torch.
"""
