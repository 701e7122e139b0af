"""Engines: one interface, one file a backend, and the one builder of TensorRT engines.

Relies on nothing but numpy until an engine is made; then on the runtime it is made for.
"""
