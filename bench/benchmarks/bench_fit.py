"""Training."""

import numpy as np

import nodecore as nc

from .bench_solve import spiral


class SpiralFit:
    """S8: 200 updates of Adam on the spiral of S1, full batch, float64."""

    def setup(self):
        self.field, self.y0, self.t, _, self.options = spiral(np.dtype("float64"))
        t = np.array([[-0.1, 2.0], [-2.0, -0.1]])
        exact = nc.solve(lambda _, y: y**3 @ t, self.y0, self.t, rtol=1e-9)
        self.target = exact.y
        self.params = nc.nn.MLP([2, 50, 2]).init(seed=1)

    def time_200_updates(self):
        nc.fit(
            self.field,
            self.params,
            self.y0,
            self.t,
            self.target,
            optimizer=nc.optim.Adam(1e-2),
            steps=200,
            solve=self.options,
            progress=False,
        )
