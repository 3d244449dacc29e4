"""A hostile build: AddressSanitizer and UndefinedBehaviorSanitizer over every path of the kernels.

`NODECORE_SANITIZE=1` fences the arrays of a work space off from each other and fills it with NaN
before its first use. The second half of this file is the program that runs on that build, in a
process of its own: `python test_hostile.py`.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
ISAS = ["baseline", "avx2", "avx512"] if platform.machine() in ("x86_64", "AMD64") else ["baseline"]


# ---- the build ----------------------------------------------------------------------------------


def libraries():
    """The sanitizers' libraries, which an uninstrumented Python must load first."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    if shutil.which(compiler) is None:
        return None
    found = []
    for name in ("libasan.so", "libubsan.so"):
        path = subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not Path(path).is_absolute():
            return None
        found.append(path)
    return found


def environment(**more):
    """Ours, without what this process was itself told to use."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NODECORE_", "PYTHONPATH"))}
    return {**kept, **more}


if __name__ != "__main__":
    import pytest

    pytestmark = pytest.mark.slow

    @pytest.fixture(scope="session")
    def build(tmp_path_factory):
        """A folder with the sanitized package, and the libraries that it needs."""
        preload = libraries()
        if preload is None:
            pytest.skip("the C compiler has no sanitizers (gcc with libasan and libubsan)")
        if not (ROOT / "setup.py").exists():
            pytest.skip("these tests run beside the sources")
        folder = tmp_path_factory.mktemp("hostile")
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, folder)
        shutil.copytree(
            ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=folder, env=environment(NODECORE_SANITIZE="1"), capture_output=True, text=True,
            timeout=1500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return folder / "src", preload

    def hostile(build, isa, *arguments):
        source, preload = build
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), *arguments],
            env=environment(
                PYTHONPATH=str(source), NODECORE_ISA=isa, LD_PRELOAD=":".join(preload),
                PYTHONMALLOC="malloc", OMP_NUM_THREADS="2",
                ASAN_OPTIONS="detect_leaks=0:halt_on_error=1", UBSAN_OPTIONS="print_stacktrace=1",
            ),
            capture_output=True, text=True, timeout=1500, check=False,
        )  # fmt: skip
        if "not available" in done.stderr:
            pytest.skip(f"{isa} is not available on this machine")
        assert done.returncode == 0, done.stderr[-5000:]
        assert "runtime error" not in done.stderr, done.stderr[-5000:]
        assert done.stdout.split()[-2:] == ["ok", isa]

    @pytest.mark.parametrize("isa", ISAS)
    def test_nothing_is_read_or_written_outside(build, isa):
        hostile(build, isa)

    def test_the_build_is_hostile(build):
        """A check of the check: a read behind an array is found."""
        source, preload = build
        program = (
            "import numpy as np\n"
            "from nodecore import _kernels, ir\n"
            "from nodecore.ir.program import Instr, Operand, Program, Space\n"
            "code = Instr('exp', 4096, Operand(Space.OUT, 0), Operand(Space.Y, 0))\n"
            "p = Program((code,), np.zeros(1, np.int32), 0)\n"
            "short, out = np.zeros((1000, 1)), np.zeros((4096, 1))\n"
            "spaces = {int(Space.Y): short, int(Space.OUT): out}\n"
            "_kernels.run_program(p.packed, p.ipool, 0, spaces, 1, 'baseline')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(
                PYTHONPATH=str(source), LD_PRELOAD=":".join(preload), PYTHONMALLOC="malloc",
                ASAN_OPTIONS="detect_leaks=0",
            ),
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-3000:]


# ---- the program --------------------------------------------------------------------------------


def mlp(t, y, p, a):
    h = np.tanh(y @ p["W1"] + p["b1"] + a["u"] * np.sin(t))
    h = np.exp(-h * h) + np.log1p(h * h)
    leak = np.where(y > 0, y, 0.1 * y) * p["s"]
    couple = a["k"] * np.outer(y, y).sum(axis=0) * 1e-3
    return h @ p["W2"] - leak + 0.1 * np.mean(y**2) + couple


class Driver:
    """Solves, gradients and replays of small random problems; every number is checked twice."""

    def __init__(self, nc):
        self.nc, self.rng = nc, np.random.default_rng(0)
        self.field = nc.field(mlp)

    def problem(self, dtype, B, D, H, form):
        r = self.rng
        params = {
            "W1": 0.3 * r.standard_normal((D, H)),
            "b1": 0.1 * r.standard_normal(H),
            "W2": 0.3 * r.standard_normal((H, D)),
            "s": np.array(0.3),
        }
        y0 = r.standard_normal((B, D)).astype(dtype)
        args = {"u": r.standard_normal((B, H)), "k": r.standard_normal(B)}
        t = {
            "shared": lambda: np.linspace(0, 1, 5),
            "ends": lambda: np.array([0.0, 1.0]),
            "backwards": lambda: np.linspace(1, 0, 4),
            "rows": lambda: np.sort(r.uniform(0, 1, (B, 4)), axis=1),
            "ragged": lambda: [np.sort(r.uniform(0, 1, r.integers(1, 6))) for _ in range(B)],
        }[form]()
        return y0, t, params, args

    def check(self, method, dtype, B, D, H, form, **options):
        nc = self.nc
        y0, t, params, args = self.problem(dtype, B, D, H, form)
        options = {"method": method, "rtol": 1e-4, "atol": 1e-5, "batch": True, **options}
        sol = nc.solve(self.field, y0, t, params, args, adjoint="discrete", dense=True, **options)
        dy = [np.ones_like(y) for y in sol.y] if form == "ragged" else np.ones_like(sol.y)
        g = sol.vjp(dy)
        assert np.isfinite(g.y0).all() and np.isfinite(g.params["W1"]).all()
        assert np.isfinite(g.args["u"]).all()
        free = nc.solve(mlp, y0, t, params, args, threads=2, **options)
        again = sol.replay()
        iterates = nc.methods.get(method).family in ("dirk", "radau", "auto")
        for a, b, c in zip(sol.y, free.y, again.y, strict=True):
            np.testing.assert_array_equal(a, b)
            if iterates:  # a replay iterates to rounding, the solve to its tolerance
                np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(a, c)
        if form in ("shared", "ends"):
            assert np.isfinite(sol(np.array([0.0, 0.3, 0.9, 1.0]))).all()
        if hasattr(nc, "Discrete"):
            few = nc.solve(
                mlp, y0, t, params, args, adjoint=nc.Discrete(checkpoints=1 + B % 3), **options
            )
            np.testing.assert_array_equal(few.vjp(dy).y0, g.y0)

    def all_methods(self):
        nc = self.nc
        shapes = [(1, 1, 1), (2, 3, 5), (3, 2, 7), (5, 5, 3), (9, 4, 9), (19, 3, 16), (37, 1, 2),
                  (70, 9, 33)]  # fmt: skip
        forms = ["shared", "ends", "rows", "backwards", "ragged"]
        turn = 0
        for method in nc.methods.names():
            ways = [{"steps": 3}, {"dt": 0.13}, {"dt": 0.13, "tstops": [0.31, 0.7]}]
            if nc.methods.get(method).adaptive:
                ways += [{}, {"tstops": True}, {"tstops": [0.25, 0.5]}]
            for dtype in (np.float64, np.float32):
                for shape in shapes:
                    for k in range(2):  # a walk through all pairs of forms and ways
                        form = forms[turn % 5]
                        way = ways[(turn // 5 + k) % len(ways)]
                        self.check(method, dtype, *shape, form, **way)
                        turn += 1

    def failures(self):
        nc = self.nc

        def blow(t, y, k):
            return k * y * y

        t = np.linspace(0, 2, 5)
        for dtype in (np.float64, np.float32):
            for B in (1, 3, 7, 20, 67):
                y0 = np.ones((B, 2), dtype)
                y0[::3] *= -1
                y0[2:3] = np.nan
                for options in ({}, {"max_steps": 7}, {"deadline": 1e-9}, {"steps": 40}):
                    sol = nc.solve(
                        blow, y0, t, 1.0, on_failure="mark", adjoint="discrete", rtol=1e-5,
                        **options,
                    )  # fmt: skip
                    g = sol.vjp(np.ones_like(sol.y))
                    assert np.isfinite(g.y0).all()
                    assert "failed" in str(sol) or sol.ok
                    [sol.message(i) for i in range(B)]

    def events(self):
        nc = self.nc

        def fall(t, y, p, a):
            return [y[1], -p["g"] * a, y[0]]

        floor = nc.Event(
            lambda t, y: y[0], direction=-1, reset=lambda t, y, p: [0.0, -p["e"] * y[1], y[2]]
        )
        events = [floor, nc.Event(lambda t, y: y[1], terminal=False),
                  nc.Event(lambda t, y, p, a: y[2] - 9 * a)]  # fmt: skip
        p, t = {"g": 10.0, "e": np.array(0.7)}, np.linspace(0, 6, 5)
        for dtype in (np.float64, np.float32):
            for B in (1, 3, 9, 37):
                y0 = self.rng.uniform(1, 5, (B, 3)).astype(dtype)
                a = self.rng.uniform(0.3, 1.2, B)
                for options in ({}, {"steps": 7}, {"method": "dop853", "tstops": [1.0, 2.5]}):
                    for adjoint in ("discrete", nc.Discrete(checkpoints=2)):
                        sol = nc.solve(
                            fall, y0, t, p, a, events=events, adjoint=adjoint, on_failure="mark",
                            rtol=1e-4, atol=1e-5, **options,
                        )  # fmt: skip
                        again = sol.replay()
                        for x, z in zip(sol.t_events[0], again.t_events[0], strict=True):
                            np.testing.assert_array_equal(x, z)
                        ones = [[np.ones_like(x) for x in k] for k in sol.t_events]
                        g = sol.vjp(np.ones_like(sol.y), dt_events=ones)
                        assert np.isfinite(g.y0).all() and np.isfinite(g.args).all()
                        assert np.isfinite(g.t).all()

    def reversible(self):
        """Steps that are undone: paths that grow, pairs on the way, lanes that do not wait."""
        nc = self.nc
        ways = [{"steps": 7}, {"dt": 0.03, "tstops": [0.31, 0.7]}, {"method": "dop853"}, {}]
        for turn, form in enumerate(["shared", "ends", "rows", "backwards", "ragged"] * 4):
            dtype, B = (np.float64, np.float32)[turn % 2], (1, 2, 5, 19, 37)[turn * 3 % 5]
            y0, t, params, args = self.problem(dtype, B, 3, 5, form)
            way = {"method": "tsit5", "rtol": 1e-4, "atol": 1e-4, **ways[turn % 4]}
            if form == "backwards" and "tstops" in way:
                way["tstops"] = way["tstops"][::-1]
            sol = nc.solve(
                self.field, y0, t, params, args, batch=True, adjoint=nc.Reversible(0.6), **way
            )
            dy = [np.ones_like(y) for y in sol.y] if form == "ragged" else np.ones_like(sol.y)
            g = sol.vjp(dy)
            for x in (g.y0, g.params["W1"], g.args["u"], *g.t):
                assert np.isfinite(x).all()
            for a, b in zip(sol.y, sol.replay().y, strict=True):
                np.testing.assert_array_equal(a, b)
        y0 = np.geomspace(0.1, 1, 23)[:, None]
        sol = nc.solve(
            lambda t, y, p, k: -k * y * p, y0, [0.0, 1.0, 10.0], 1.0, np.linspace(0, 9, 23),
            dt=0.05, method="rk4", adjoint="reversible", on_failure="mark",
        )  # fmt: skip
        assert 0 < np.sum(sol.status == nc.Status.UNSTABLE) < 23
        assert np.isfinite(sol.vjp(np.ones_like(sol.y)).params)

    def others(self):
        nc = self.nc
        for B in (1, 5):
            field = nc.opaque(
                lambda t, y, p, a: -p * y,
                lambda t, y, p, a, ct: (-p * ct, -np.sum(ct * y), None),
            )
            sol = nc.solve(field, np.ones((B, 3)), [0, 0.4, 1.0], 2.0, adjoint="discrete")
            sol.vjp(np.ones_like(sol.y))

        def coupled(t, y, p):
            return {"a": -y["a"], "b": [y["b"][0] * p, y["b"][1] + y["a"].sum()]}

        y0 = {"a": np.ones((7, 3)), "b": [np.ones((7, 2, 2)), np.ones((7, 1))]}
        sol = nc.solve(coupled, y0, [0, 0.5, 1], 0.5, adjoint="discrete")
        sol.value_and_grad(lambda y, w: np.mean(y["a"] ** 2) + w * np.sum(y["b"][0]), 2.0)

        def wide(t, y, p):  # every width of the affine kernels' blocks
            for W in p:
                y = np.tanh(y @ W)
            return y

        for widths in ([4, 13, 31, 64, 4], [8, 1, 2, 3, 5, 8], [33, 130, 33]):
            p = [0.3 * self.rng.standard_normal(s) for s in zip(widths, widths[1:], strict=False)]
            for dtype in (np.float64, np.float32):
                for B in (1, 3, 8, 33):
                    y0 = self.rng.standard_normal((B, widths[0])).astype(dtype)
                    sol = nc.solve(wide, y0, [0, 0.5], p, steps=2, adjoint="discrete")
                    assert np.isfinite(sol.vjp(np.ones_like(sol.y)).params[0]).all()


def main():
    import nodecore as nc

    driver = Driver(nc)
    driver.all_methods()
    driver.failures()
    driver.events()
    driver.reversible()
    driver.others()
    print("ok", nc.show_config()["isa"])


if __name__ == "__main__":
    main()
