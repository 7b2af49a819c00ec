"""The command ``python -m lladav.generate``.

``lladav.generate`` is a function. When this file is imported as a module, it replaces itself by that
function, so that the name always means the function.
"""

import sys
from types import ModuleType
from typing import cast

from lladav.generation import generate, main

if __name__ == "__main__":
    main(sys.argv[1:])
else:
    sys.modules[__name__] = cast(ModuleType, generate)
