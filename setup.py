"""Build the one extension. What is not about compiling C stands in pyproject.toml.

Environment switches, read when the package is built:

NODECORE_ALLOW_NO_OPENMP=1   accept a compiler without OpenMP: solves then use one thread
NODECORE_DEBUG=1             no optimisation, debug symbols, C assertions (NC_DEBUG)
NODECORE_SANITIZE=1          AddressSanitizer and UndefinedBehaviorSanitizer
"""

import os
import platform
import sys
import tempfile
from pathlib import Path

from Cython.Distutils import build_ext as cython_build_ext
from setuptools import Extension, setup
from setuptools.errors import CompileError, LinkError, PlatformError

KERNELS = Path("src/nodecore/_kernels")
X86 = platform.machine().lower() in ("x86_64", "amd64")
X86_ONLY = {"variant_avx2.c", "variant_avx512.c"}
GENERATED = {"_engine.c"}

# Bits must not depend on the compiler's taste: no contraction into fused multiply-adds, and none
# of -ffast-math. The two -fno flags only drop errno and floating-point traps, which nobody reads.
CFLAGS = ["-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# (compiler flags, linker flags): gcc and clang; Apple's clang with Homebrew's libomp
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]


def switch(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


class build_ext(cython_build_ext):
    def finalize_options(self):
        super().finalize_options()
        # Objects of a plain build look up to date to a debug build, and the other way round.
        self.force = self.force or switch("NODECORE_DEBUG") or switch("NODECORE_SANITIZE")

    def compiles(self, source: str, cflags: list[str], ldflags: list[str]) -> bool:
        """Whether a program compiles and links; the compiler's complaints are not shown."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "probe.c")
            path.write_text(source)
            sys.stderr.flush()
            stderr = os.dup(2)
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
            try:
                objects = self.compiler.compile([str(path)], folder, extra_postargs=cflags)
                self.compiler.link_executable(objects, "probe", folder, extra_postargs=ldflags)
            except (CompileError, LinkError):
                return False
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
        return True

    def openmp(self) -> tuple[list[str], list[str]]:
        source = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"
        for cflags, ldflags in OPENMP:
            if self.compiles(source, cflags, ldflags):
                return cflags, ldflags
        if switch("NODECORE_ALLOW_NO_OPENMP"):
            return [], []
        raise PlatformError(
            "nodecore: the C compiler does not support OpenMP, so solves would use one thread. "
            "Use gcc, or install libomp for clang; or set NODECORE_ALLOW_NO_OPENMP=1 to build "
            "without it."
        )

    def build_extensions(self):
        if self.compiler.compiler_type != "unix":
            raise PlatformError(
                "nodecore: the kernels are GNU C (vector types, statement expressions): build with "
                f"gcc or clang, not with the {self.compiler.compiler_type} compiler."
            )
        cflags, ldflags = self.openmp()
        is_clang = "#ifndef __clang__\n#error\n#endif\nint main(void) { return 0; }\n"
        if self.compiles(is_clang, [], []):
            # A vector type's attribute that clang ignores would be silently wrong code.
            cflags = [*cflags, "-Werror=ignored-attributes"]
        debug, sanitize = switch("NODECORE_DEBUG"), switch("NODECORE_SANITIZE")
        if debug or sanitize:
            cflags = [*cflags, "-g", "-fno-omit-frame-pointer", "-O0" if debug else "-O1"]
        else:
            # -g0: Python's own flags may ask for debug symbols, three times the size of the code
            cflags = [*cflags, "-O3", "-g0"]
        if debug:
            cflags = [*cflags, "-DNC_DEBUG", "-UNDEBUG"]
        if sanitize:
            cflags, ldflags = [*cflags, *SANITIZE], [*ldflags, *SANITIZE]
        for extension in self.extensions:
            extension.extra_compile_args = [*CFLAGS, *cflags]
            extension.extra_link_args = ldflags
        super().build_extensions()


engine = Extension(
    "nodecore._kernels._engine",
    sources=[
        str(KERNELS / "_engine.pyx"),
        *sorted(
            str(path)
            for path in KERNELS.glob("*.c")
            if path.name not in GENERATED and (X86 or path.name not in X86_ONLY)
        ),
    ],
    include_dirs=[str(KERNELS)],
    depends=[
        "setup.py",
        *(str(p) for kind in ("*.h", "*.def", "*.pxd", "*.pxi") for p in KERNELS.rglob(kind)),
    ],
)
engine.cython_directives = {"language_level": 3}

setup(ext_modules=[engine], cmdclass={"build_ext": build_ext})
