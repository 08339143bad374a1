"""Batches by number: random views of drawn scenes (shuffled candidates, distractors, moved boxes)."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F

from ..models.rexseek import RexSeekProcessor
from .drawn import ATTRIBUTES, DrawnScenes
from .packing import AskedImage, PackedBatch, Suffix, collate, question_ids, suffix_of
from .vocabulary import UNKNOWN

#: Words that carry no meaning in the grammar of the scenes; now and then one becomes unknown in training.
FILLERS = frozenset("the a an who is are standing wearing of people person everyone".split())
#: Suffix ids of short and of long questions, and boxes: batches have one of four shapes, so that little is padding.
_SHORT, _LONG = 26, 48
_FEW, _MANY = 13, 24


class SceneStream:
    """``batch_at`` of the loop for drawn scenes; a pure function of (scenes, seed, number).

    Args:
        scenes: rendered scenes
        processor: of the model
        end_id: the token that ends an answer
        images, questions: per batch, and per image in batches of short questions (long ones: 5/8 as many)
        seed: of everything random
        easy_until: batches before this number have short questions only
        boost: name of a template or domain -> how much more often than drawn
    """

    def __init__(
        self,
        scenes: DrawnScenes,
        processor: RexSeekProcessor,
        end_id: int,
        images: int = 8,
        questions: int = 24,
        seed: int = 0,
        easy_until: int = 0,
        boost: dict[str, float] | None = None,
    ):
        self.scenes, self.processor, self.end_id = scenes, processor, end_id
        self.images, self.questions, self.seed, self.easy_until = images, questions, seed, easy_until
        config = processor.config
        self.mean = torch.tensor(config.image_mean)[:, None, None]
        self.std = torch.tensor(config.image_std)[:, None, None]
        self.unknown = processor.tokenizer.convert_tokens_to_ids(UNKNOWN)
        self.fillers = {processor.encode(word)[0] for word in FILLERS}
        texts = sorted({q[0] for asked in scenes.questions[: len(scenes)] for q in asked})
        wordings = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
        self.wordings = dict(zip(texts, wordings))
        sample = question_ids(processor, ["the"])[0]
        at = sample.index(processor.encode("the")[0])
        self.head, self.tail = sample[:at], sample[at + 1 :]
        self.boost = boost or {}
        short = total = 0
        for asked in scenes.questions[: len(scenes)]:
            total += len(asked)
            short += sum(self._length(q) <= _SHORT for q in asked)
        self.share_short = short / max(total, 1)

    def _length(self, question) -> int:
        text, answers = question[:2]
        fixed = len(self.head) + len(self.tail)
        n = len(self.wordings[text])
        return fixed + n + 4 + n + max(1, len(answers))  # the rejection sentence is one token


    def __call__(self, number: int) -> PackedBatch:
        rng = random.Random(f"{self.seed}/{number}")
        short = number < self.easy_until or rng.random() < self.share_short
        many = rng.random() < 0.3
        count = self.questions if short else self.questions * 5 // 8
        # a permutation per epoch, so that scenes come equally often
        images = []
        for k in range(self.images):
            images.append(self._image(self._scene(number * self.images + k), rng, short, count, many))
        most = max(len(image.boxes) for image in images)
        return collate(
            self.processor, images, (count, _FEW if most <= _FEW else _MANY, _SHORT if short else _LONG)
        )

    def _scene(self, position: int) -> int:
        epoch, at = divmod(position, len(self.scenes))
        if getattr(self, "_epoch", None) != epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.scenes))
            self._epoch = epoch
        return int(self._permutation[at])

    def _image(self, index: int, rng: random.Random, short: bool, count: int, many: bool) -> AskedImage:
        boxes, attributes, slot_of = self.boxes(index, rng, many)
        low, high = (0, _SHORT) if short else (_SHORT, _LONG)
        asked = [q for q in self.scenes.questions[index] if low < self._length(q) <= high]
        weights = [self.boost.get(q[3], 1.0) * self.boost.get(q[2], 1.0) for q in asked]
        keys = [rng.random() ** (1 / w) for w in weights]  # weighted sampling without replacement
        chosen = sorted(range(len(asked)), key=lambda i: -keys[i])[:count]
        suffixes = [self.suffix(asked[i], slot_of, rng) for i in chosen]
        return AskedImage(self.pixels(index), boxes, suffixes, attributes)

    def pixels(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels of a scene for both encoders."""
        raw = torch.from_numpy(np.array(self.scenes.get("pixels", index))).permute(2, 0, 1).float() / 255
        large = (raw - self.mean) / self.std
        size = self.processor.config.clip_image_size
        return large, F.interpolate(large[None], size=size, mode="bilinear", align_corners=False)[0]

    def boxes(self, index: int, rng: random.Random, many: bool) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Candidates of a scene in random order: boxes, attribute classes, and the slot of every person."""
        people, extra = (int(v) for v in self.scenes.get("counts", index))
        if many:
            wanted = rng.randint(0, extra)
        else:
            wanted = 0 if rng.random() < 0.6 else rng.randint(0, min(4, extra))
        wanted = min(wanted, max(0, 24 - people))
        members = list(range(people)) + rng.sample(range(people, people + extra), wanted)
        rng.shuffle(members)
        boxes = np.asarray(self.scenes.get("boxes", index))[members]
        size = np.concatenate([boxes[:, 2:] - boxes[:, :2]] * 2, 1)
        jitter = rng.choice((0.0, 0.02, 0.04))
        noise = np.random.default_rng(rng.getrandbits(63)).uniform(-jitter, jitter, boxes.shape)
        boxes = torch.from_numpy((boxes + noise * size).astype(np.float32)).half().float()
        described = np.asarray(self.scenes.get("attributes", index))
        attributes = torch.full((len(members), len(ATTRIBUTES)), -1, dtype=torch.long)
        slot_of = [0] * people
        for slot, member in enumerate(members):
            if member < people:
                attributes[slot] = torch.from_numpy(described[member].astype(np.int64))
                slot_of[member] = slot
            else:
                attributes[slot, 0] = 0
        return boxes, attributes, slot_of

    def suffix(self, question, slot_of: list[int], rng: random.Random) -> Suffix:
        """Ids of one question and its answer."""
        text, answers = question[:2]
        wording = list(self.wordings[text])
        if rng.random() < 0.03:
            places = [i for i, w in enumerate(wording) if w in self.fillers]
            if places:
                wording[rng.choice(places)] = self.unknown
        whole = [*self.head, *wording, *self.tail]
        return suffix_of(self.processor, whole, wording, [slot_of[a] for a in answers], self.end_id)


class VisionStream(SceneStream):
    """Batches without questions, for training the vision part on attributes alone."""

    def __call__(self, number: int) -> PackedBatch:
        rng = random.Random(f"vision/{self.seed}/{number}")
        blank = Suffix([self.end_id], [-100], [1], 1, ())
        images = []
        for k in range(self.images):
            index = self._scene(number * self.images + k)
            boxes, attributes, _ = self.boxes(index, rng, many=rng.random() < 0.2)
            images.append(AskedImage(self.pixels(index), boxes, [blank], attributes))
        return collate(self.processor, images)
