"""`python -m tkernel` is `tk`."""

from tkernel.cli.app import main

if __name__ == "__main__":
    main()
