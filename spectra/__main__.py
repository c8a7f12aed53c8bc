"""``python -m spectra`` is the command ``spectra``."""

from spectra.cli import main

if __name__ == "__main__":
    main()
