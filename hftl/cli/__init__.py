"""The command line."""

from hftl.cli.commands import errors_in_one_line, main
from hftl.cli.options import parse_recipe

__all__ = ["errors_in_one_line", "main", "parse_recipe"]
