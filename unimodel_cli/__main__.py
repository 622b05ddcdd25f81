"""``python -m unimodel_cli`` is ``unimodel``."""

from unimodel_cli.main import main

main()
