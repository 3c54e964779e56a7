"""`python -m getm`: the command line."""

from getm.cli import main

if __name__ == "__main__":
    main()
