"""Training."""

import cases

import nodecore as nc

from . import choose


class Fit:
    """S8: 200 updates of Adam, full batch, float64."""

    def setup(self):
        choose(nc.show_config()["isa"])
        self.case = cases.get("S8")
        self.field = nc.field(cases.numpy_field(self.case))

    def time_200_updates(self):
        case = self.case
        nc.fit(
            self.field,
            case.weights,
            case.y0,
            case.t,
            case.target,
            optimizer=nc.optim.Adam(case.learning_rate),
            steps=case.updates,
            solve={"method": case.method, "rtol": case.rtol, "atol": case.atol},
            progress=False,
        )
