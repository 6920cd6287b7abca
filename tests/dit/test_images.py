"""Image sets of the diffusion runs: digits, ImageNet folders, center crop, batched reading."""

import hashlib
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional as tv

from dyt_dit.images import Reader, as_tensor, center_crop, open_split
from dyt_vision.image_data import UnreadableImageError


@pytest.fixture
def folder(images, tmp_path):
    """Return a copy of the images to damage."""
    return shutil.copytree(images, tmp_path / "images")


def noise(height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class TestDigits:
    def test_digits_hold_out_the_last_360(self):
        train, held_out = (open_split("digits", None, s, 8) for s in ("train", "held_out"))
        assert (len(train), len(held_out), train.classes) == (1437, 360, 10)
        digits = load_digits()
        assert train.targets + held_out.targets == digits.target.tolist()
        picture, label = held_out[5]
        assert (picture.shape, picture.dtype, label) == (
            (3, 8, 8),
            torch.uint8,
            digits.target[1442],
        )
        expected = torch.tensor(digits.images[1442] / 16 * 255)
        assert all(torch.allclose(channel.double(), expected, atol=0.5) for channel in picture)
        assert held_out.name(5) == "digit 1442"

    def test_digits_are_resized_with_bicubic_interpolation(self):
        small, large = (open_split("digits", None, "train", size)[0][0] for size in (8, 32))
        assert large.shape == (3, 32, 32)
        enlarged = tv.resize(small, [32, 32], interpolation=tv.InterpolationMode.BICUBIC)
        assert (large.int() - enlarged.int()).abs().max() <= 1

    def test_digest_of_digits_covers_pixels_and_labels(self):
        train = open_split("digits", None, "train", 16)
        digests = [train.digest(), train.digest(0, 4), train.digest(4, 8), train.digest(4)]
        assert (
            digests[1] == hashlib.sha256(train.pixels[:4].tobytes() + b"[0, 1, 2, 3]").hexdigest()
        )
        assert len(set(digests)) == 4
        train.targets[5] += 1
        changed = [train.digest(), train.digest(0, 4), train.digest(4, 8), train.digest(4)]
        assert [a == b for a, b in zip(digests, changed, strict=True)] == [
            False,
            True,
            False,
            False,
        ]


class TestCenterCrop:
    def test_image_of_twice_the_size_is_averaged(self):
        image = noise(16, 16)
        blocks = as_tensor(image).double().reshape(3, 8, 2, 8, 2).mean((2, 4))
        # PIL rounds after the rows and after the columns.
        assert (as_tensor(center_crop(image, 8)) - blocks).abs().max() <= 1

    def test_image_is_halved_as_often_as_possible(self):
        image = noise(35, 70)
        once = image.resize((35, 17), Image.Resampling.BOX)
        assert center_crop(image, 16).tobytes() == center_crop(once, 16).tobytes()
        assert (
            center_crop(image, 4).tobytes()
            == center_crop(once.resize((17, 8), Image.Resampling.BOX), 4).tobytes()
        )

    @pytest.mark.parametrize("height, width", [(12, 18), (18, 12), (15, 15), (4, 8)])
    def test_smaller_image_is_scaled_bicubically_and_cropped(self, height, width):
        image = noise(height, width)
        short = min(height, width)
        size = [height * 10 // short, width * 10 // short]
        scaled = tv.resize(image, size, interpolation=tv.InterpolationMode.BICUBIC)
        expected = tv.center_crop(scaled, [10, 10])
        assert center_crop(image, 10).tobytes() == expected.tobytes()

    def test_odd_margin_is_rounded_down_at_the_left(self):
        image = noise(10, 13)
        assert center_crop(image, 10).tobytes() == image.crop((1, 0, 11, 10)).tobytes()


class TestImageNet:
    def test_imagenet_is_a_center_cropped_image_folder(self, images):
        train, held_out = (open_split("imagenet", images, s, 16) for s in ("train", "held_out"))
        assert (len(train), len(held_out), train.classes) == (14, 5, 2)
        assert train.targets == [0] * 8 + [1] * 6
        assert [train.name(0), held_out.name(4)] == ["n01/0.png", "n02/1.JPEG"]
        picture, label = train[9]
        assert (picture.shape, picture.dtype, label) == ((3, 16, 16), torch.uint8, 1)
        original = Image.open(images / "train" / "n02" / "1.JPEG")
        assert torch.equal(picture, as_tensor(center_crop(original, 16)))

    def test_imagenet_passes_over_system_files_and_folders(self, folder):
        before = open_split("imagenet", folder, "train", 16)
        names = [before.name(i) for i in range(len(before))]
        for name in names:
            image = folder / "train" / name
            image.with_name(f"._{image.name}").write_bytes(b"x")
        for system_folder in (".ipynb_checkpoints", "@eaDir", "lost+found", "__MACOSX"):
            shutil.copytree(folder / "val" / "n01", folder / "train" / system_folder)
        after = open_split("imagenet", folder, "train", 16)
        assert [after.name(i) for i in range(len(after))] == names
        assert (after.classes, after.digest()) == (2, before.digest())

    @pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
    def test_every_image_mode_becomes_rgb(self, folder, mode):
        path = folder / "train" / "n01" / "0.png"
        noise(20, 20).convert(mode).save(path, format="TIFF")
        assert open_split("imagenet", folder, "train", 16)[0][0].shape == (3, 16, 16)

    def test_digest_covers_names_and_sizes(self, images, folder):
        def digests():
            train = open_split("imagenet", folder, "train", 16)
            return train.digest(), train.digest(0, 4), train.digest(4, 8)

        before = digests()
        assert len(set(before)) == 3
        assert before[0] == open_split("imagenet", images, "train", 16).digest()
        with (folder / "train" / "n01" / "5.JPEG").open("ab") as file:
            file.write(b"\0")
        grown = digests()
        assert [a == b for a, b in zip(before, grown, strict=True)] == [False, True, False]
        (folder / "train" / "n01" / "5.JPEG").rename(folder / "train" / "n01" / "5.jpeg")
        assert digests()[0] != grown[0]

    def test_digest_covers_labels(self, folder):
        before = open_split("imagenet", folder, "train", 16).digest(0, 8)
        (folder / "train" / "n00").mkdir()
        shutil.copy(folder / "val" / "n01" / "1.JPEG", folder / "train" / "n00" / "0.JPEG")
        after = open_split("imagenet", folder, "train", 16)
        assert (after.name(1), after.name(8)) == ("n01/0.png", "n01/7.JPEG")
        assert after.digest(1, 9) != before

    def test_unreadable_image_error_names_the_file(self, folder):
        path = folder / "train" / "n01" / "3.JPEG"
        path.write_bytes(path.read_bytes()[:-200])
        images = open_split("imagenet", folder, "train", 16)
        with pytest.raises(UnreadableImageError) as refusal:
            images[3]
        assert str(refusal.value).startswith(f"{path} cannot be read as an image: ")
        assert str(pickle.loads(pickle.dumps(refusal.value))) == str(refusal.value)

    def test_missing_file_is_not_an_unreadable_image(self, folder):
        images = open_split("imagenet", folder, "train", 16)
        (folder / "train" / "n01" / "3.JPEG").unlink()
        with pytest.raises(FileNotFoundError, match=r"3\.JPEG"):
            images[3]


def test_open_split_refuses_other_data():
    with pytest.raises(ValueError, match=r"data is 'cifar'; expected 'digits' or 'imagenet'"):
        open_split("cifar", None, "train", 8)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reader_reads_ranges_in_batches(folder, num_workers):
    broken = folder / "train" / "n01" / "2.png"
    broken.write_text("<html>404 Not Found</html>")
    images = open_split("imagenet", folder, "train", 16)
    reader = Reader(images, batch=3, num_workers=num_workers)
    first, second = list(reader.read(0, 8)), list(reader.read(8, 14))
    assert [batch.indices for batch in first] == [[0, 1], [3, 4, 5], [6, 7]]
    assert [batch.indices for batch in second] == [[8, 9, 10], [11, 12, 13]]
    for batch in first + second:
        assert torch.equal(batch.images, torch.stack([images[i][0] for i in batch.indices]))
    ((index, reason),) = first[0].unreadable.items()
    assert index == 2 and reason.startswith(f"{broken} cannot be read")
