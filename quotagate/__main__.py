"""`python -m quotagate` is the command."""

from quotagate.cli import main

main()
