"""ImageNet folders as people have them: system files, missing images, archives, pointers."""

import logging
import shutil
from dataclasses import replace

import pytest
from torchvision.datasets.folder import IMG_EXTENSIONS

from dyt_vision import image_data, sources
from dyt_vision.sources import SplitSize, check_image_folder, survey_image_folder

from .tiny import PAPER

SIZES = {
    "train": SplitSize(images=400, smallest_class=150, largest_class=250),
    "val": SplitSize(images=10, smallest_class=5, largest_class=5),
}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 11\n"
CLASSES = ("n00000001", "n00000002")
SYSTEM_FOLDERS = (".ipynb_checkpoints", "@eaDir", "lost+found", "__MACOSX")


@pytest.fixture
def folder(tmp_path):
    """Two classes of 200 training images and five held-out ones each; all files are empty."""
    for split, count in (("train", 200), ("val", 5)):
        for name in CLASSES:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / name / f"{name}_{i}.JPEG").touch()
    return tmp_path


@pytest.fixture
def warnings(caplog, monkeypatch):
    """Function that surveys a folder and returns the warnings."""
    monkeypatch.setattr(logging.getLogger("matched"), "propagate", True)

    def survey(folder):
        caplog.clear()
        survey_image_folder(folder, SIZES, "ImageNet-1K")
        return [record.getMessage() for record in caplog.records]

    return survey


def samples(folder):
    return image_data.ImageFolder(str(folder)).samples


def refusal(check, *arguments):
    with pytest.raises(ValueError) as error:
        check(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def remove(folder, *indices):
    for i in indices:
        (folder / f"{folder.name}_{i}.JPEG").unlink()


def test_image_suffixes_are_torchvisions():
    assert sources.IMAGE_SUFFIXES == IMG_EXTENSIONS


def test_imagenet_1k_has_1000_classes_of_its_sizes():
    train, val = sources.IMAGENET_1K.values()
    assert 732 * 1000 <= train.images == 1_281_167 <= 1300 * 1000
    assert val.images == 50 * 1000


def test_published_sets_have_their_sizes_and_notes():
    def of(split):
        return split.images, split.smallest_class, split.largest_class

    found = {
        name: (images.title, images.classes, *map(of, images.sizes.values()), images.layout_note)
        for name, images in sources.FOLDER_SETS.items()
    }
    assert found == {
        "imagenet": ("ImageNet-1K", 1000, (1_281_167, 732, 1300), (50_000, 50, 50), ""),
        "cifar100": (
            "CIFAR-100",
            100,
            (50_000, 500, 500),
            (10_000, 100, 100),
            "write the published arrays as PNG files, the test set as val/",
        ),
        "tiny-imagenet": (
            "Tiny ImageNet",
            200,
            (100_000, 500, 500),
            (10_000, 50, 50),
            "move each published validation image into the folder of its class, which "
            "val_annotations.txt names",
        ),
    }
    names = ("IMAGENET", "CIFAR100", "TINY_IMAGENET", "DIGITS", "VIT_B_WEIGHTS")
    assert [getattr(sources, name).title for name in names] == [
        "ImageNet-1K",
        "CIFAR-100",
        "Tiny ImageNet",
        "scikit-learn digits (1,797 real handwritten digits, 360 held out)",
        "released weights of timm's ViT-B",
    ]


SYNSETS = ("n00000001", "n00000002")


@pytest.mark.parametrize(
    ("train", "val", "fault"),
    [
        (
            (*SYNSETS, "d", "c", "b", "a"),
            SYNSETS,
            "train has 6 class folders, not 2; move what is not a class out of train/: a, b, c, …",
        ),
        # Names that are no synsets, as in CIFAR-100: a class is what both splits have.
        (
            ("x", "y", "more"),
            ("x", "y"),
            "train has 3 class folders, not 2; move what is not a class out of train/: more",
        ),
        (
            (SYNSETS[0], "x", "more"),
            (SYNSETS[0], "x"),
            "train has 3 class folders, not 2; move what is not a class out of train/: more",
        ),
        (("x", "y", "z"), ("x", "y", "z"), "train has 3 class folders, not 2"),
        (("x",), ("x", "y"), "train has 1 class folders, not 2; val/ also has y"),
        (("x", "y"), ("x",), "val has 1 class folders, not 2; train/ also has y"),
        (("x",), ("x",), "train has 1 class folders, not 2"),
    ],
)
def test_check_image_folder_says_what_to_move(tmp_path, train, val, fault):
    for split, names in (("train", train), ("val", val)):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").touch()
    assert refusal(check_image_folder, tmp_path, 2) == f"{tmp_path}/{fault}; {sources.LAYOUT}"


def test_survey_names_at_most_three_loose_files(folder, warnings):
    for name in ("d.txt", "c.txt", "b.txt", "a.txt"):
        (folder / "train" / name).touch()
    assert warnings(folder) == [
        f"{folder}/train has files outside of its class folders: a.txt, b.txt, c.txt, …"
    ]


class TestSystemFilesAndFolders:
    @pytest.mark.parametrize("name", SYSTEM_FOLDERS)
    def test_check_image_folder_passes_over_system_folders(self, folder, name):
        expected = samples(folder / "train")
        for place in (folder / "train", folder / "val", folder / "train" / CLASSES[0]):
            (place / name).mkdir()
            (place / name / "copy.JPEG").touch()
        check_image_folder(folder, classes=2)
        survey_image_folder(folder, SIZES, "ImageNet-1K")
        assert samples(folder / "train") == expected
        assert image_data.ImageFolder(str(folder / "val")).classes == list(CLASSES)

    @pytest.mark.parametrize("name", ["._{}", ".DS_Store", "Thumbs.db"])
    def test_image_folder_passes_over_system_files(self, folder, name, warnings):
        expected = samples(folder / "train")
        for path, _ in expected:
            image = folder / path
            image.with_name(name.format(image.name)).touch()
        (folder / "train" / name.format("n00000001")).touch()
        assert samples(folder / "train") == expected and len(expected) == 400
        assert warnings(folder) == []

    def test_image_folder_keeps_torchvisions_order(self, folder):
        from torchvision import datasets

        (folder / "train" / CLASSES[1] / "a" / "b").mkdir(parents=True)
        (folder / "train" / CLASSES[1] / "a" / "b" / "1.png").touch()
        (folder / "train" / CLASSES[1] / "a-b").mkdir()
        (folder / "train" / CLASSES[1] / "a-b" / "1.png").touch()
        assert samples(folder / "train") == datasets.ImageFolder(folder / "train").samples

    def test_image_folder_lists_images_once_despite_links(self, folder):
        expected = samples(folder / "train")
        (folder / "train" / CLASSES[0] / "up").symlink_to(folder)
        (folder / "train" / CLASSES[0] / "again").symlink_to(".")
        assert samples(folder / "train") == expected

    @pytest.mark.parametrize("name", ["backup", "n00000001 (copy)"])
    def test_check_image_folder_names_a_folder_that_is_no_class(self, folder, name):
        for split in ("train", "val"):
            (folder / split / name).mkdir()
        message = refusal(check_image_folder, folder, 2)
        assert message.startswith(f"{folder}/train has 3 class folders, not 2; move what is not a ")
        assert f"class out of train/: {name}; expected" in message

    def test_check_image_folder_names_a_missing_class(self, folder):
        shutil.rmtree(folder / "val" / CLASSES[1])
        message = refusal(check_image_folder, folder, 2)
        assert "val has 1 class folders, not 2; train/ also has n00000002; expected" in message

    def test_class_of_system_files_alone_is_empty(self, folder):
        shutil.rmtree(folder / "val" / CLASSES[1])
        (folder / "val" / CLASSES[1]).mkdir()
        (folder / "val" / CLASSES[1] / ".DS_Store").touch()
        assert "n00000002 is empty" in refusal(check_image_folder, folder, 2)
        assert "val/n00000002 has no images" in refusal(samples, folder / "val")


class TestSurvey:
    def test_survey_of_a_complete_folder_is_silent(self, folder, warnings):
        assert warnings(folder) == []

    def test_survey_refuses_classes_of_one_image(self, folder):
        for name in CLASSES:
            remove(folder / "train" / name, *range(1, 200))
        assert refusal(survey_image_folder, folder, SIZES, "ImageNet-1K") == (
            f"2 of the 2 classes in {folder}/train have another number of images than ImageNet-1K, "
            "such as n00000001 with 1; expected 150 to 250 per class. Unpack their archives again"
        )

    def test_survey_refuses_a_class_with_an_archive_only(self, folder):
        name = folder / "train" / CLASSES[1]
        remove(name, *range(200))
        (name / "n00000002.tar").touch()
        check_image_folder(folder, classes=2)
        message = refusal(survey_image_folder, folder, SIZES, "ImageNet-1K")
        assert message == (
            f"{name} has no images, but n00000002.tar; expected files of the kinds "
            f"{', '.join(sources.IMAGE_SUFFIXES)}. Unpack archives, then submit again"
        )

    def test_check_image_folder_names_missing_and_odd_folders(self, folder):
        shutil.copytree(folder / "train" / CLASSES[0], folder / "train" / "n00000009")
        (folder / "train" / CLASSES[0]).rename(folder / "away")
        assert refusal(check_image_folder, folder, 2) == (
            f"class {CLASSES[0]} is in only one of train/ and val/; {sources.LAYOUT}"
        )
        shutil.rmtree(folder / "val")
        assert (
            refusal(check_image_folder, folder, 2)
            == f"{folder} has no folder val/; {sources.LAYOUT}"
        )
        (folder / "train" / "n00000009").rename(folder / "train" / CLASSES[0])
        (folder / "val" / CLASSES[0]).mkdir(parents=True)
        assert refusal(check_image_folder, folder, 2) == (
            f"{folder}/val has 1 class folders, not 2; train/ also has {CLASSES[1]}; "
            f"{sources.LAYOUT}"
        )
        (folder / "val" / CLASSES[1]).mkdir()
        assert refusal(check_image_folder, folder, 2) == (
            f"{folder}/val/{CLASSES[0]} is empty; {sources.LAYOUT}"
        )

    def test_check_image_folder_refuses_a_flat_val(self, folder):
        for path in list((folder / "val").glob("*/*")):
            path.rename(folder / "val" / path.name)
        flat = (
            f"and {folder}/val has 10 images outside of class folders: n00000001_0.JPEG, …; it "
            "was unpacked flat: move each image into the folder of its class; expected an ImageFold"
        )
        message = refusal(check_image_folder, folder, 2)
        assert message.startswith(f"{folder}/val/n00000001 is empty, {flat}")
        for name in CLASSES:
            (folder / "val" / name).rmdir()
        message = refusal(check_image_folder, folder, 2)
        assert message.startswith(f"{folder}/val has 0 class folders, not 2, {flat}")

    def test_survey_refuses_an_incomplete_val(self, folder):
        remove(folder / "val" / CLASSES[1], 3)
        message = refusal(survey_image_folder, folder, SIZES, "ImageNet-1K")
        assert message == (
            f"1 of the 2 classes in {folder}/val have another number of images than ImageNet-1K, "
            "such as n00000002 with 4; expected 5 per class. Unpack their archives again"
        )

    def test_survey_warns_of_some_missing_training_images(self, folder, warnings):
        remove(folder / "train" / CLASSES[0], 3, 4, 5, 6)
        assert warnings(folder) == [
            f"{folder}/train has 396 images, and ImageNet-1K has 400; results may differ from "
            "those on the complete set"
        ]
        remove(folder / "train" / CLASSES[0], 7)
        assert refusal(warnings, folder) == (
            f"{folder}/train has 395 images, and ImageNet-1K has 400; at most 1% may be missing. "
            "Unpack its archives again"
        )

    def test_survey_accepts_a_class_of_half_the_smallest_one(self, folder, warnings, monkeypatch):
        monkeypatch.setattr(sources, "MAX_MISSING_SHARE", 0.5)
        remove(folder / "train" / CLASSES[0], *range(125))
        assert len(warnings(folder)) == 1
        remove(folder / "train" / CLASSES[0], 125)
        message = refusal(warnings, folder)
        assert "such as n00000001 with 74; expected 150 to 250 per class" in message

    def test_survey_warns_of_additional_images(self, folder, warnings):
        (folder / "train" / CLASSES[0] / "n00000001_1 (1).JPEG").touch()
        (warning,) = warnings(folder)
        assert "train has 401 images, and ImageNet-1K has 400; results may differ" in warning

    def test_survey_names_files_outside_of_class_folders(self, folder, warnings):
        (folder / "train" / "README").touch()
        assert warnings(folder) == [
            f"{folder}/train has files outside of its class folders: README"
        ]

    def test_survey_refuses_pointers_of_git_lfs(self, folder):
        image = folder / "val" / CLASSES[1] / "n00000002_0.JPEG"
        image.write_text(LFS)
        message = refusal(survey_image_folder, folder, SIZES, "ImageNet-1K")
        assert message.startswith(f"{image} is a pointer of git-lfs, not the file itself; run `git")

    def test_survey_finds_pointers_in_a_part_of_a_class(self, folder):
        """An interrupted download leaves some: here a fifth, of which the first is not one."""
        images = sorted((folder / "train" / CLASSES[1]).iterdir())
        for image in images[1:41]:
            image.write_text(LFS)
        message = refusal(survey_image_folder, folder, SIZES, "ImageNet-1K")
        assert "is a pointer of git-lfs" in message

    def test_survey_names_a_loop_of_links(self, folder):
        image = folder / "val" / CLASSES[1] / "n00000002_0.JPEG"
        image.unlink()
        image.symlink_to(image.name)
        message = refusal(survey_image_folder, folder, SIZES, "ImageNet-1K")
        assert message.startswith(f"{image} is a symbolic link that leads back to itself; delete")

    def test_survey_takes_a_loop_of_links_for_a_file(self, folder, warnings):
        (folder / "val" / "latest").symlink_to("latest")
        assert warnings(folder) == [f"{folder}/val has files outside of its class folders: latest"]

    def test_unreadable_image_error_names_a_loop_of_links(self, folder):
        image = folder / "val" / CLASSES[0] / "n00000001_0.JPEG"
        image.unlink()
        image.symlink_to(image.name)
        message = refusal(image_data.ImageFolder(str(folder / "val")).read, 0)
        assert "cannot be read as an image: it is a symbolic link that leads back" in message

    def test_unreadable_image_error_names_a_pointer(self, folder):
        (folder / "val" / CLASSES[0] / "n00000001_0.JPEG").write_text(LFS)
        message = refusal(image_data.ImageFolder(str(folder / "val")).read, 0)
        assert "cannot be read as an image: it is a pointer of git-lfs" in message


class TestPublishedSets:
    """CIFAR-100 and Tiny ImageNet, which the vision tables take at mini scale."""

    @staticmethod
    def make(root, classes, **images):
        """Write ``images`` empty files of each class to each split."""
        for split, count in images.items():
            for name in (f"c{i:03}" for i in range(classes)):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    (root / split / name / f"{i}.png").touch()
        return root

    def test_cifar100_with_too_few_images_per_class_is_refused(self, tmp_path):
        folder = self.make(tmp_path, 100, train=1, val=1)
        sources.CIFAR100.check(folder)
        message = refusal(sources.CIFAR100.survey, folder)
        assert message == (
            f"100 of the 100 classes in {folder}/train have another number of images than "
            "CIFAR-100, such as c000 with 1; expected 500 per class. Unpack their archives again"
        )

    def test_cifar100_with_too_few_held_out_images_is_refused(self, tmp_path, monkeypatch):
        folder = self.make(tmp_path, 100, train=2, val=2)
        small = SplitSize(images=200, smallest_class=2, largest_class=2)
        sizes = dict(sources.FOLDER_SETS["cifar100"].sizes, train=small, val=small)
        monkeypatch.setitem(vars(sources.FOLDER_SETS["cifar100"]), "sizes", sizes)
        sources.CIFAR100.survey(folder)
        (folder / "val" / "c007" / "0.png").unlink()
        message = refusal(sources.CIFAR100.survey, folder)
        assert message.startswith(f"1 of the 100 classes in {folder}/val have another number")
        assert "such as c007 with 1; expected 2 per class" in message

    def test_tiny_imagenet_as_published_is_refused_with_what_to_do(self, tmp_path):
        folder = self.make(tmp_path, 200, train=1)
        (folder / "val" / "images").mkdir(parents=True)
        (folder / "val" / "images" / "val_0.JPEG").touch()
        message = refusal(sources.TINY_IMAGENET.check, folder)
        assert message.startswith(f"{folder}/val has 1 class folders, not 200")
        assert message.endswith("the folder of its class, which val_annotations.txt names")

    def test_images_of_cifar100_have_100_classes(self, tmp_path):
        folder = self.make(tmp_path, 2, train=1, val=1)
        config = replace(PAPER["vit_b"], data="cifar100", image_size=32)
        data = image_data.load(config, folder, train=None, held_out=None)
        assert (data.classes, len(data.train), len(data.held_out)) == (100, 2, 2)
