"""What the command line does with plugins and backends in this environment, without a server.

It runs in processes of its own (``python -m engine.kit``), since it imports what others wrote.
"""
