"""The `curate` command and its subcommands."""
