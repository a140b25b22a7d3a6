from .configuration import differences as differences
from .directory import LineageDirectory as LineageDirectory
from .ledger import GenerationRecord as GenerationRecord
from .ledger import Ledger as Ledger
from .ledger import Start as Start
from .quantities import Quantity as Quantity
from .quantities import distance_name as distance_name
from .settings import LineageSettings as LineageSettings
