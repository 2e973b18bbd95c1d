"""``python -m pkgstore`` is ``pkgstore``."""

from pkgstore.cli import main

if __name__ == "__main__":
    main()
