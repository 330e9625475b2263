"""``python -m hftl``."""

from hftl.cli.main import main

if __name__ == "__main__":
    main()
