"""The command ``python -m lladav.generate``.

``lladav.generate`` is a function. Imported as a module, this file gives its place to that function, so that
the name means the same after any imports.
"""

import sys
from types import ModuleType
from typing import cast

from lladav.generation import generate, main

if __name__ == "__main__":
    main(sys.argv[1:])
else:
    sys.modules[__name__] = cast(ModuleType, generate)
