"""The command line of UniModel. It speaks to the server over HTTP only."""
