"""One file per group of commands. Each has an `add(app)` that puts its commands on the command line."""
