"""`python -m tierfs`."""

from tierfs.cli.main import main

if __name__ == "__main__":
    main()
