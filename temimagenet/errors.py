"""The errors of TEMImageNet: each message says what was found, where, what was expected and what to do next."""

__all__ = [
    "AppError",
    "AtlasError",
    "DatasetError",
    "HubError",
    "LabelError",
    "LocalizeError",
    "MicrographError",
    "ModelError",
    "OpticsError",
    "PortalError",
    "PrecisionError",
    "RecipeError",
    "ShardError",
    "SpecimenError",
    "TEMImageNetError",
]


class TEMImageNetError(Exception):
    """Base of every error that TEMImageNet raises on purpose."""


class SpecimenError(TEMImageNetError):
    """A material, structure file, zone axis or specimen geometry cannot be used."""


class OpticsError(TEMImageNetError):
    """An optical, scan or detector parameter is outside its physical range."""


class AtlasError(TEMImageNetError):
    """No multislice table exists for what was asked, or a table is damaged."""


class LabelError(TEMImageNetError):
    """A label name is unknown or a label is absent from a library."""


class RecipeError(TEMImageNetError):
    """A recipe file does not describe a library."""


class ShardError(TEMImageNetError):
    """A shard, catalogue or manifest is missing, damaged or of an unknown schema."""


class DatasetError(TEMImageNetError):
    """A dataset request (split, engine, query, root) cannot be met."""


class HubError(TEMImageNetError):
    """A library cannot be published, or not be fetched from where it is said to be."""


class LocalizeError(TEMImageNetError):
    """An image or a setting that columns cannot be located with."""


class MicrographError(TEMImageNetError):
    """A file that is no micrograph or cannot be read as one, or results that cannot be written."""


class AppError(TEMImageNetError):
    """The desktop app cannot start, a setting of it is wrong, or a session cannot be kept or taken up again."""


class ModelError(TEMImageNetError):
    """No such model, weights that do not fit, or an image or setting that a network cannot work on."""


class DeviceError(TEMImageNetError):
    """No such device, or none that this machine can use."""


class PrecisionError(TEMImageNetError):
    """A benchmark case, a submission or a record of results cannot be used."""


class PortalError(TEMImageNetError):
    """A website cannot be built from its sources, or its pages have links that lead nowhere."""
