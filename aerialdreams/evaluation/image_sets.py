"""Image sets of a split, and all metrics of them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aerialdreams.data.dataset import evenly_spaced
from aerialdreams.data.spec import RGB_ONLY, FurtherBands
from aerialdreams.evaluation.bands import BandSums, band_report, band_sums
from aerialdreams.evaluation.boundaries import boundary_agreement, boundary_counts
from aerialdreams.evaluation.calibration import calibration, calibration_bins
from aerialdreams.evaluation.feature_spaces import Images, InceptionFeatures, SegmenterFeatures
from aerialdreams.evaluation.metrics import (
    NEIGHBOURS,
    agreement,
    agreement_resamples,
    confusion,
    density_coverage,
    frechet_distance,
    frechet_interval,
    interval,
    kernel_distance,
    kernel_distance_interval,
    mean_interval,
    median_ratio_interval,
    miou_of_real,
    nearest,
    share_errors,
    spread,
)
from aerialdreams.evaluation.spectra import class_power, spectrum
from aerialdreams.generation.outputs import EVALUATED_SETS

NOT_COMPUTED = "not computed: no weights"
ONE_SAMPLE = "not computed: one sample of each mask, or one mask"

FeatureSpaces = Mapping[str, SegmenterFeatures | InceptionFeatures]


@dataclass
class ImageSet:
    """Statistics of an image set.

    Attributes:
        matrices: a confusion matrix per image.
        boundaries: see `boundaries.boundary_counts`, per image.
        confidences: see `calibration.calibration_bins`, per image.
        power: see `spectra.class_power`, one array per batch.
        features: by feature space, one array (images, dimensions) per batch.
        all_band_matrices: a confusion matrix per image, of the judge of all bands if there are
            further ones.
        bands: see `bands.band_sums`, per batch, if there are further bands.
        differences: mean absolute difference of each image from the first sample of its mask, in
            pixel values from 0 to 1.
    """

    matrices: list[NDArray[np.int64]] = field(default_factory=list)
    boundaries: list[NDArray[np.int64]] = field(default_factory=list)
    confidences: list[NDArray[np.float64]] = field(default_factory=list)
    power: list[NDArray[np.float64]] = field(default_factory=list)
    features: dict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    all_band_matrices: list[NDArray[np.int64]] = field(default_factory=list)
    bands: list[BandSums] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)

    @torch.no_grad()
    def add_features(self, images: Images, spaces: FeatureSpaces) -> None:
        """Add the features of a batch of images."""
        for name, space in spaces.items():
            self.features[name].append(space(images).cpu().double().numpy())

    @torch.no_grad()
    def add_predictions(
        self, images: Images, masks: NDArray[np.uint8], judge: SegmenterFeatures
    ) -> None:
        """Add the judge's predictions of a batch of images, compared with their masks."""
        ids = judge.class_ids.tolist()
        for mask, predicted, probabilities in zip(masks, *judge.predict(images), strict=True):
            self.matrices.append(confusion(mask, predicted, ids))
            self.boundaries.append(boundary_counts(mask, predicted, ids))
            self.confidences.append(calibration_bins(mask, predicted, probabilities, ids))

    def add_power(self, images: Images, masks: NDArray[np.uint8], class_ids: list[int]) -> None:
        """Add the power spectra of a batch of images."""
        self.power.append(class_power(images, masks, class_ids))

    @torch.no_grad()
    def add_bands(
        self,
        images: Images,
        real: Images,
        masks: NDArray[np.uint8],
        judge: SegmenterFeatures,
        further: FurtherBands,
    ) -> None:
        """Add near infrared and height of a batch of images, and a judge's view of all bands."""
        ids = judge.class_ids.tolist()
        self.bands.append(band_sums(images, real, masks, ids, further))
        predicted, _ = judge.predict(images)
        self.all_band_matrices += [
            confusion(mask, image, ids) for mask, image in zip(masks, predicted, strict=True)
        ]

    def summed_bands(self) -> BandSums:
        """The sums over all batches."""
        return {name: np.sum([b[name] for b in self.bands], 0) for name in self.bands[0]}

    def extend(self, other: "ImageSet") -> None:
        """Add the statistics of further images."""
        self.matrices += other.matrices
        self.boundaries += other.boundaries
        self.confidences += other.confidences
        self.power += other.power
        self.all_band_matrices += other.all_band_matrices
        self.bands += other.bands
        self.differences += other.differences
        for name, arrays in other.features.items():
            self.features[name] += arrays

    def all_features(self, space: str) -> NDArray[np.float64]:
        """Features of all images in a feature space, (images, dimensions)."""
        return np.concatenate(self.features[space])


def evaluate(
    sets: dict[str, ImageSet],
    train: ImageSet,
    samples: int,
    class_names: list[str],
    further: FurtherBands = RGB_ONLY,
) -> dict[str, Any]:
    """All metrics of one split, by image set.

    Args:
        sets: the split's image sets: real, those of EVALUATED_SETS, sample-1, sample-2, ..., and
            floor, power and bands of evenly spaced train images, as many as there are real ones.
        train: the train split's features.
        samples: generated images per mask.
        class_names: of the classes, in the order of their ids.
        further: the images' bands after red, green and blue.
    """
    report: dict[str, Any] = {}
    resamples = {}
    for source in ("real", *EVALUATED_SETS):
        matrices = np.stack(sets[source].matrices)
        scores, resamples[source] = judged(matrices, class_names)
        report[source] = {"n": len(matrices)} | scores
        report[source] |= mean_of("class_share_error", share_errors(matrices))
        report[source] |= boundary_agreement(np.stack(sets[source].boundaries))
        report[source] |= calibration(np.stack(sets[source].confidences))
    real, count = sets["real"], len(sets["real"].matrices)
    total = len(train.all_features("judge"))
    # Real images of other patches, equally many, give a lower bound for the distances.
    subset = evenly_spaced(count, total)
    lower_bound = ImageSet(
        features={name: [train.all_features(name)[subset]] for name in train.features},
        power=sets["floor"].power,
    )
    real_power = np.concatenate(real.power)
    for source in EVALUATED_SETS:
        mious = report[source]["miou"], report["real"]["miou"]
        report[source] |= miou_of_real(*mious, resamples[source]["miou"], resamples["real"]["miou"])
        report[source] |= distances(sets[source], real)
        power = np.concatenate(sets[source].power)
        paired = len(power) == len(real_power)
        report[source] |= spectrum(power, real_power, class_names, same_masks=paired)
        # Memorised train images would be nearer to the train split than real images are.
        to_train, real_to_train = (
            nearest(image_set.all_features("judge"), train.all_features("judge"))
            for image_set in (sets[source], real)
        )
        ratio = float(np.median(to_train) / np.median(real_to_train))
        ratio_95 = median_ratio_interval(to_train, real_to_train)
        report[source]["judge_nearest_train_of_real"] = ratio
        report[source]["judge_nearest_train_of_real_95"] = ratio_95
    report["generated"] |= diversity(sets, samples)
    report["floor"] = {"n": len(subset)} | distances(lower_bound, real)
    report["floor"] |= spectrum(
        np.concatenate(lower_bound.power), real_power, class_names, same_masks=False
    )
    if further.names:
        for source, own in evaluate_bands(sets, class_names, further).items():
            report[source] |= own
    return report


def evaluate_bands(
    sets: dict[str, ImageSet], class_names: list[str], further: FurtherBands
) -> dict[str, dict[str, Any]]:
    """Metrics of near infrared and height, by image set; see `evaluate`.

    Returns:
        For each set but the floor `all_bands`, the agreement of the judge of all bands; for all
        but the real images also what `bands.band_report` gives.
    """
    report: dict[str, dict[str, Any]] = {}
    real, resamples = sets["real"].summed_bands(), {}
    for source in ("real", *EVALUATED_SETS):
        matrices = np.stack(sets[source].all_band_matrices)
        scores, resamples[source] = judged(matrices, class_names)
        report[source] = {"all_bands": scores}
        if source != "real":
            mious = scores["miou"], report["real"]["all_bands"]["miou"]
            scores |= miou_of_real(*mious, resamples[source]["miou"], resamples["real"]["miou"])
            own = sets[source].summed_bands()
            report[source] |= band_report(own, real, class_names, further, same_masks=True)
    floor = sets["floor"].summed_bands()
    report["floor"] = band_report(floor, real, class_names, further, same_masks=False)
    return report


def judged(
    matrices: NDArray[np.int64], class_names: list[str]
) -> tuple[dict[str, Any], dict[str, NDArray[np.float64]]]:
    """Agreement of a judge's predictions with the masks, with its intervals; and its resamples.

    Args:
        matrices: a confusion matrix per image, (images, classes, classes).
        class_names: of the classes, in the order of their ids.
    """
    resamples = agreement_resamples(matrices)
    intervals = {f"{key}_95": interval(values) for key, values in resamples.items()}
    return agreement(matrices.sum(0), class_names) | intervals, resamples


def mean_of(name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    """The mean over images and its interval, as `name` and `name`_95."""
    return {name: float(values.mean()), f"{name}_95": mean_interval(values)}


def diversity(sets: dict[str, ImageSet], samples: int) -> dict[str, Any]:
    """Differences between the samples of one mask, in pixel values and in segmenter features."""
    if samples < 2 or len(sets["sample-1"].all_features("judge")) < 2:
        return {"sample_difference": ONE_SAMPLE, "judge_sample_spread": ONE_SAMPLE}
    sample_sets = [sets[f"sample-{number}"] for number in range(1, samples + 1)]
    pixels = np.mean([sample_set.differences for sample_set in sample_sets[1:]], axis=0)
    features = spread([sample_set.all_features("judge") for sample_set in sample_sets])
    return mean_of("sample_difference", pixels) | mean_of("judge_sample_spread", features)


def distances(image_set: ImageSet, real: ImageSet) -> dict[str, Any]:
    """Distances of an image set from the real one, in each feature space."""
    features, real_features = image_set.all_features("judge"), real.all_features("judge")
    count = min(len(features), len(real_features))
    too_few = f"not computed: {count} images are too few"
    report = distance_pair(
        features, real_features, "judge_frechet_distance", "judge_kernel_distance"
    )
    if count > NEIGHBOURS:
        density, coverage = density_coverage(real_features, features)
        report |= mean_of("judge_density", density) | mean_of("judge_coverage", coverage)
    else:
        report |= {"judge_density": too_few, "judge_coverage": too_few}
    if "inception" in image_set.features:
        features, real_features = (s.all_features("inception") for s in (image_set, real))
        report |= distance_pair(features, real_features, "fid", "kid")
    else:
        report |= {"fid": NOT_COMPUTED, "kid": NOT_COMPUTED}
    return report


def distance_pair(
    features: NDArray[np.float64], real: NDArray[np.float64], frechet: str, kernel: str
) -> dict[str, Any]:
    """Fréchet and kernel distance with intervals, under the given names."""
    count = min(len(features), len(real))
    if count < 4:  # half-samples of a single image have no covariance
        return dict.fromkeys((frechet, kernel), f"not computed: {count} images are too few")
    distance = frechet_distance(features, real)
    return {
        frechet: distance,
        f"{frechet}_95": frechet_interval(features, real, distance),
        kernel: kernel_distance(features, real),
        f"{kernel}_95": kernel_distance_interval(features, real),
    }
