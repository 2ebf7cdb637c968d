"""`python -m lifeboat`."""

from lifeboat.cli.app import main

if __name__ == "__main__":
    main()
