from .local import Outcome as Outcome
from .local import work_off as work_off
from .plan import Member as Member
from .plan import Sweep as Sweep
