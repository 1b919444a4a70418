"""`python -m wherry_controller`: the `wherry` command."""

from wherry_controller.cli import main

if __name__ == "__main__":
    main()
