"""The command `carl`: one thin module a command."""
