"""``python -m adamomentum``, the same as the ``adamomentum`` script.

Tested in tests/test_cli.py.
"""

from adamomentum.cli import main

if __name__ == "__main__":
    main()
