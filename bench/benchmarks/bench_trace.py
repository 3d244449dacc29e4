"""What a call costs beside the kernels: tracing, lowering, checking, allocating."""

import numpy as np

import nodecore as nc

from . import choose

NETS = {"4-32-32-4": nc.nn.MLP([4, 32, 32, 4]), "2-2": nc.nn.MLP([2, 2])}


class Calls:
    """One Euler step of one sample: nearly nothing to compute."""

    params = (list(NETS),)
    param_names = ("net",)

    def setup(self, net):
        mlp = NETS[net]
        self.net, self.params_ = mlp, mlp.init()
        self.plain = lambda t, y, p: mlp(p, y)
        self.field = nc.field(self.plain)
        self.y0, self.t = np.ones(mlp.sizes[0]), np.array([0.0, 0.1])
        self.dy = np.ones((2, len(self.y0)))
        self.options = {"method": "euler", "steps": 1}
        self.time_warm_field(net)
        self.time_plain_function(net)
        self.kept = self.solve(self.field, adjoint="discrete")
        self.kept.vjp(self.dy)

    def solve(self, field, **options):
        return nc.solve(field, self.y0, self.t, self.params_, **self.options, **options)

    def time_warm_field(self, net):
        """A repeated solve of the same `nodecore.field`."""
        self.solve(self.field)

    def time_plain_function(self, net):
        """The same, traced at every call."""
        self.solve(self.plain)

    def time_vjp(self, net):
        """The backward pass alone."""
        self.kept.vjp(self.dy)

    def time_first_gradient(self, net):
        """Trace, differentiate and lower a new field, and run it."""
        field = nc.field(lambda t, y, p: self.net(p, y))
        self.solve(field, adjoint="discrete").vjp(self.dy)


class Reaction:
    """A field of many scalar operations, as mechanistic models have: 20 species in a chain."""

    def setup(self):
        choose(nc.show_config()["isa"])

        def chain(t, y, p):
            flux = [p["k"][i] * y[i] / (1.0 + y[i]) for i in range(20)]
            return [(flux[i - 1] if i else 1.0) - flux[i] for i in range(20)]

        self.chain, self.y0, self.p = chain, np.ones(20), {"k": np.linspace(0.5, 2.0, 20)}
        self.field = nc.field(chain)
        self.time_plain_function()
        self.time_warm_field()

    def time_plain_function(self):
        nc.solve(self.chain, self.y0, np.array([0.0, 1.0]), self.p, method="euler", steps=1)

    def time_warm_field(self):
        nc.solve(self.field, self.y0, np.array([0.0, 1.0]), self.p, method="euler", steps=1)
