"""`python -m proj`."""

from proj.cli import main

if __name__ == "__main__":
    main()
