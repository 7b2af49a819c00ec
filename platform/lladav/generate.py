"""The command ``python -m lladav.generate``; ``lladav.generate`` itself is a function of ``generation``."""

from lladav.generation import main

if __name__ == "__main__":
    main()
