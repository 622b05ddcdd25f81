"""The public Python API of UniModel. `unimodel.plugins` holds what the author of a plugin needs."""
