"""Networks: what they are, what they learn from, how they are trained, and those that are shipped."""

from temimagenet.models.predict import Model, Prediction, ToldColumns, half_precision, load_model
from temimagenet.models.unet import FINE_MAPS, PLAIN_MAPS, AtomNet, UNet
from temimagenet.models.zoo import TASKS, load_network

__all__ = [
    "FINE_MAPS",
    "PLAIN_MAPS",
    "TASKS",
    "AtomNet",
    "Model",
    "Prediction",
    "ToldColumns",
    "UNet",
    "half_precision",
    "load_model",
    "load_network",
]
