"""ImageNet folders: check of the layout, the paper's augmentation, mixup."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from dyt_vision import image_data, supervised, transforms
from dyt_vision.sources import DIGITS, IMAGENET, check_image_folder
from matched.training import reseed

from ..messages import refused
from .tiny import DYT, PAPER, TINY_VIT, learner, loaded, train

CONFIG = PAPER["vit_b"]


@pytest.fixture
def folder(original, tmp_path):
    """Return a copy of the images to change."""
    return shutil.copytree(original, tmp_path / "imagenet")


class TestCheckImageFolder:
    def test_complete_folder_is_accepted(self, original):
        check_image_folder(original, classes=2)

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_missing_split_is_refused(self, folder, split):
        shutil.rmtree(folder / split)
        self.refused(folder, f"{folder} has no folder {split}/")

    def test_missing_path_is_refused(self, tmp_path):
        self.refused(tmp_path / "nowhere", "nowhere has no folder train/")

    def test_wrong_number_of_classes_is_refused(self, original):
        message = f"{original / 'train'} has 2 class folders, not 1000"
        self.refused(original, message, classes=1000)

    def test_class_in_only_one_split_is_refused(self, folder):
        (folder / "val" / "n02").rename(folder / "val" / "n03")
        self.refused(folder, "class n02 is in only one of train/ and val/")

    def test_class_without_images_is_refused(self, folder):
        for image in (folder / "train" / "n02").iterdir():
            image.unlink()
        self.refused(folder, f"{folder / 'train' / 'n02'} is empty")

    def test_other_files_in_a_split_are_ignored(self, folder):
        (folder / "train" / "README").write_text("")
        check_image_folder(folder, classes=2)

    def test_registered_data_sources(self, original):
        assert DIGITS.embedded and not IMAGENET.embedded
        assert refused(IMAGENET.check, original).startswith(
            f"{original}/train has 2 class folders, not 1000; "
        )

    def test_image_folder_without_classes_is_refused(self, tmp_path):
        assert refused(image_data.ImageFolder, tmp_path) == (
            f"{tmp_path} has no class folders; expected <class>/<image>"
        )

    def refused(self, folder, message, classes=2):
        with pytest.raises(ValueError) as refusal:
            check_image_folder(folder, classes)
        assert message in str(refusal.value)
        assert "expected an ImageFolder: train/<class>/<image>" in str(refusal.value)


class TestTransforms:
    def steps(self, transform):
        return {type(step).__name__: step for step in transform.transforms}

    def test_training_transform_is_the_authors_release(self, original):
        steps = self.steps(loaded(CONFIG, original).train.transform)
        assert list(steps) == [
            "RandomResizedCropAndInterpolation",
            "RandomHorizontalFlip",
            "RandAugment",
            "MaybeToTensor",
            "Normalize",
            "RandomErasing",
        ]
        crop = steps["RandomResizedCropAndInterpolation"]
        assert (crop.size, crop.scale) == ((224, 224), (0.08, 1.0))
        assert crop.ratio == pytest.approx((3 / 4, 4 / 3))
        assert crop.interpolation == InterpolationMode.BICUBIC
        assert steps["RandomHorizontalFlip"].p == 0.5
        augment = steps["RandAugment"]
        assert augment.num_layers == 2
        assert {(op.magnitude, op.magnitude_std) for op in augment.ops} == {(9, 0.5)}
        assert "PosterizeIncreasing" in {op.name for op in augment.ops}
        erasing = steps["RandomErasing"]
        assert (erasing.probability, erasing.max_count) == (0.25, 1)
        assert erasing.rand_color is False and erasing.per_pixel is True

    def test_evaluation_transform_crops_224_of_256_pixels(self, original):
        steps = self.steps(loaded(CONFIG, original).held_out.transform)
        assert list(steps) == ["Resize", "CenterCrop", "MaybeToTensor", "Normalize"]
        assert steps["Resize"].size == 256
        assert steps["Resize"].interpolation == InterpolationMode.BICUBIC
        assert steps["CenterCrop"].size == (224, 224)

    def test_transforms_normalize_by_imagenet_statistics(self, original):
        data = loaded(CONFIG, original)
        for part in (data.train, data.held_out):
            normal = self.steps(part.transform)["Normalize"]
            assert normal.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
            assert normal.std.tolist() == pytest.approx([0.229, 0.224, 0.225])

    def test_no_rand_augment_means_no_color_change(self, original):
        config = replace(CONFIG, rand_augment="", erasing=0.0, flip=0.0)
        assert list(self.steps(loaded(config, original).train.transform)) == [
            "RandomResizedCropAndInterpolation",
            "MaybeToTensor",
            "Normalize",
        ]


def test_imagenet_items_are_224_pixel_images_and_labels(original):
    data = loaded(CONFIG, original)
    assert (len(data.train), len(data.held_out), data.classes) == (8, 4, 1000)
    assert [data.held_out[i][1] for i in range(4)] == [0, 0, 1, 1]
    for part in (data.train, data.held_out):
        assert part[0][0].shape == (3, 224, 224)


def test_posterize_to_0_bits_is_supported():
    """Magnitude 9 ± 0.5 posterizes one image in 700 to 0 bits, which Pillow 13 refuses."""
    transform = transforms.training_transform(CONFIG, rand_augment=CONFIG.rand_augment)
    augment = next(t for t in transform.transforms if type(t).__name__ == "RandAugment")
    image = Image.fromarray(np.full((8, 8, 3), 200, dtype=np.uint8))
    black = 0
    reseed(0)
    for op in (op for op in augment.ops if op.name == "PosterizeIncreasing"):
        for _ in range(1000):
            black += not np.asarray(op(image)).any()
    assert black > 0


def test_augmentation_depends_only_on_the_seed(original):
    data = loaded(CONFIG, original)

    def item(*place):
        reseed(*place)
        return data.train[3][0]

    assert torch.equal(item(1), item(1))
    assert not torch.equal(item(1), item(2))


def test_supervised_run_on_an_image_folder(original, tmp_path):
    config = replace(TINY_VIT, data="imagenet", norm=DYT, image_size=16, batch=4, micro_batch=2)
    outcome, _ = train(tmp_path, config, data={"imagenet": original})
    assert outcome.steps == 2
    assert outcome.metrics.keys() == {"top1", "top5", "loss"}
    assert 0 <= outcome.metrics["top1"] <= outcome.metrics["top5"] <= 100


class TestMixup:
    def mixed(self, monkeypatch, directory, images=8, **changes):
        """Return the prepared batch of ``images`` images, each with its own gray and label."""
        config = replace(TINY_VIT, **changes)
        prepare = learner(monkeypatch, directory, config).prepare
        labels = torch.arange(images)
        grays = labels.float()[:, None, None, None].expand(images, 3, 16, 16).clone()
        reseed(0)
        return prepare([grays, labels])

    @pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
    def test_mixup_targets_are_soft_and_sum_to_1(self, monkeypatch, tmp_path, mixup, cutmix):
        x, y = self.mixed(monkeypatch, tmp_path, mixup=mixup, cutmix=cutmix)
        assert x.shape == (8, 3, 16, 16) and y.shape == (8, 10)
        assert y.sum(dim=1).tolist() == pytest.approx([1] * 8)
        assert y.min().item() == pytest.approx(0.01)  # label smoothing 0.1 over 10 classes

    @pytest.mark.parametrize("mixup, cutmix", [(0.8, 0.0), (0.0, 1.0)])
    def test_mixup_mixes_images_and_labels_alike(self, monkeypatch, tmp_path, mixup, cutmix):
        x, y = self.mixed(monkeypatch, tmp_path, mixup=mixup, cutmix=cutmix, label_smoothing=0.0)
        share = y[torch.arange(8), torch.arange(8)]
        expected = share * torch.arange(8) + (1 - share) * torch.arange(8).flip(0)
        assert 0 < share[0].item() < 1
        torch.testing.assert_close(x.mean(dim=(1, 2, 3)), expected)
        assert (x[0].unique().numel() == 1) == (cutmix == 0)

    def test_mixup_passes_every_probability_to_timm(self, monkeypatch, tmp_path):
        given = {}

        def record(**settings):
            given.update(settings)
            return lambda images, labels: (images, labels)

        monkeypatch.setattr(supervised, "Mixup", record)
        self.mixed(
            monkeypatch,
            tmp_path,
            mixup=0.7,
            cutmix=0.6,
            mixup_prob=0.4,
            mixup_switch=0.3,
            label_smoothing=0.2,
        )
        assert given == {
            "mixup_alpha": 0.7,
            "cutmix_alpha": 0.6,
            "prob": 0.4,
            "switch_prob": 0.3,
            "mode": "batch",
            "label_smoothing": 0.2,
            "num_classes": 10,
        }

    def test_labels_stay_hard_without_mixup_and_cutmix(self, monkeypatch, tmp_path):
        x, y = self.mixed(monkeypatch, tmp_path, mixup=0.0, cutmix=0.0)
        assert y.tolist() == list(range(8))
        assert x[3].unique().tolist() == [3]

    def test_mixup_refuses_an_odd_micro_batch(self, monkeypatch, tmp_path):
        assert refused(self.mixed, monkeypatch, tmp_path, images=7) == (
            "a micro-batch has 7 images, but mixup and CutMix need an even number because they mix "
            "pairs; change batch or micro_batch"
        )


def test_evaluation_has_an_interpolation_of_its_own():
    config = replace(CONFIG, interpolation="bicubic", eval_interpolation="bilinear")
    (resize,) = (
        step
        for step in transforms.evaluation_transform(config).transforms
        if hasattr(step, "interpolation")
    )
    assert resize.interpolation is InterpolationMode.BILINEAR
