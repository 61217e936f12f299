"""`PublishedTEMImageNet`: a PyTorch dataset over the files of TEMImageNet v1.3 as they were published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import Dataset

from temimagenet.datasets import Transform, select_rows
from temimagenet.labels import check_labels
from temimagenet.recipe import Engine
from temimagenet.render import Sample
from temimagenet.storage.published import PublishedFolder

__all__ = ["PublishedTEMImageNet"]


class PublishedTEMImageNet(Dataset[Sample]):
    """Samples of the folders published with Lin et al. (2021), version 1.3, without converting them.

    `root` holds `image/00001.png` and so on, and beside it a folder a label, any of which may be absent: `absent`
    names labels that no image has, and images that lack one of the labels asked for are left out, as `left_out` tells.
    `temimagenet.storage.published.PublishedFolder.sample` says what is known of such a sample and in which units.

    Args:
        root: the folder that holds `image`.
        split: "train", "test", or None for all. The publication keeps no split: three quarters are `train`, and images
            of the same place in each field of view stay together.
        labels: which of the ten labels and two scalars to load.
        where: a pandas query over `number`, `split`, `condition`, `energy_keV`, `aperture_mrad`, `source_size_A` and
            `field_of_view` (the first to fourth), such as "condition == 1".
        transform: applied to every sample.
        origin: number of the first row and column in the files of positions, taken to be 1; pixel centres are then at
            whole numbers from 0.
        engine: what rendered the images: "linear", or "multislice" for the multislice repository.

    Raises:
        DatasetError: there are no such images, an unknown split, or a query that fails or leaves nothing.
        LabelError: unknown label, or one that no image has.

    If you use this dataset, cite Lin et al., Sci. Rep. 11, 5386 (2021).
    """

    def __init__(
        self,
        root: str | Path,
        split: str | None = None,
        labels: Sequence[str] = ("gaussianMask",),
        where: str | None = None,
        transform: Transform | None = None,
        *,
        origin: float = 1.0,
        engine: Engine = "linear",
    ) -> None:
        self.labels = check_labels(tuple([labels] if isinstance(labels, str) else labels))
        self.folder = PublishedFolder.open(root, origin, engine)
        self.transform = transform
        complete = set(self.folder.complete(self.labels))
        self.left_out = tuple(number for number in self.folder.numbers if number not in complete)
        catalogue = self.folder.catalogue()
        catalogue = catalogue[catalogue["number"].isin(complete)]
        self.catalogue = select_rows(catalogue, self.folder.root, split, engine, where)

    @property
    def absent(self) -> tuple[str, ...]:
        """Labels and scalars that the folder has of no image."""
        return self.folder.absent

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the selection.

        Raises:
            IndexError: there is no such sample.
            DatasetError: one of its files is damaged, or two do not agree; the message names them.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a dataset of {len(self)}")
        sample = self.folder.sample(int(self.catalogue["number"].iloc[index]), self.labels)
        return sample if self.transform is None else self.transform(sample)

    def __repr__(self) -> str:
        """What it holds, and what is absent, in a few lines."""
        return (
            f"PublishedTEMImageNet {self.folder.root}\n  {len(self)} of {len(self.folder.numbers)} images, "
            f"{len(self.left_out)} left out since they lack a label\n  labels: {', '.join(self.labels)}\n"
            f"  absent: {', '.join(self.absent) or 'none'}"
        )
