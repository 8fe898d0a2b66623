"""``python -m adamomentum``, the same as the ``adamomentum`` script."""

from adamomentum.cli import main

if __name__ == "__main__":
    main()
