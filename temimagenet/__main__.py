"""`python -m temimagenet`: the command line."""

from temimagenet.cli import main

main()
