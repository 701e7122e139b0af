"""The ground that every folder stands on: errors, whole files, the manners of a command, units, provenance.

Relies on the standard library (and tqdm for the bar), so a device can import it.
"""
