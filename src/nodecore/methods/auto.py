"""Methods that choose between an explicit and an implicit one, step by step and sample by sample.

name    order  error  dense  made of
auto      5      4      4     tsit5, kvaerno5
"""

from collections.abc import Callable

from .dirk import BUILDERS as DIRK
from .explicit import BUILDERS as EXPLICIT
from .tableau import Auto


def _auto() -> Auto:
    return Auto(
        name="auto",
        explicit=EXPLICIT["tsit5"](),
        stiff=DIRK["kvaerno5"](),
        citation="L. F. Shampine, ACM Trans. Math. Software 3 (1977) 44-53 (the estimate); "
        "C. Rackauckas and Q. Nie, J. Open Res. Software 5 (2017) 15 (the counts)",
        aliases=("auto_tsit5_kvaerno5",),
    )


BUILDERS: dict[str, Callable[[], Auto]] = {"auto": _auto}
