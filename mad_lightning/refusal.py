"""How the program says no.

Bad input is the user's business, a bug is ours. Whatever can be known before work starts is refused
with three things: the field to look at, what is wrong with it, and the remedy. The door prints
them on one screen, without a traceback; everything else that is raised is a bug and keeps its
traceback.
"""


class Refused(ValueError):
    """A request that the program declines before doing any of it.

    Args:
        field: Name of the field as written in YAML or on the command line, e.g. ``policy.n_real``.
        problem: What is wrong, with the numbers.
        remedy: What to do about it.
    """

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{field}: {problem}\n  remedy: {remedy}")


def check_sampling_bias(sampling_bias: float) -> None:
    """Refuses a λ outside (0, 1].

    Raises:
        Refused: With the field, the value and the range.
    """
    if not 0.0 < sampling_bias <= 1.0:
        raise Refused(
            "sampling_bias",
            f"λ = {sampling_bias} lies outside (0, 1]",
            "1 samples without bias; smaller values trade diversity for fidelity, e.g. 0.66",
        )
