"""`python -m ridgeline`, the same as the command `ridgeline`."""

from ridgeline.cli.main import main

if __name__ == "__main__":
    main()
