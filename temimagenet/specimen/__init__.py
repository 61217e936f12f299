"""What is imaged: crystals along zone axes, faceted particles, amorphous films, as projected columns."""

from temimagenet.specimen.amorphous import (
    AmorphousSheet,
    amorphous_graphene,
    ring_sizes,
    sheet_specimen,
    sheet_stack,
    shipped_sheet,
)
from temimagenet.specimen.crystal import (
    ProjectedCrystal,
    defective,
    orient,
    parse_zone,
    project,
    read_structure,
    strained,
    structure_from_text,
)
from temimagenet.specimen.materials import MATERIALS, Material, material
from temimagenet.specimen.particle import faceted_particle, particle_stack
from temimagenet.specimen.random_specimen import random_specimen
from temimagenet.specimen.specimen import Specimen

__all__ = [
    "MATERIALS",
    "AmorphousSheet",
    "Material",
    "ProjectedCrystal",
    "Specimen",
    "amorphous_graphene",
    "defective",
    "faceted_particle",
    "material",
    "orient",
    "parse_zone",
    "particle_stack",
    "project",
    "random_specimen",
    "read_structure",
    "ring_sizes",
    "sheet_specimen",
    "sheet_stack",
    "shipped_sheet",
    "strained",
    "structure_from_text",
]
