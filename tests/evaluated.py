"""Datasets of random boxes with predictions of a better and a worse model, for tests of results."""

import fiftyone as fo
import numpy as np

DOMAINS = ("attribute", "interaction", "position", "reasoning")


def boxes(cells, confidence=None, shift=0.0):
    """Detections on a strip of ten cells; equal cells overlap by (1 - shift) / (1 + shift)."""
    scores = [None] * len(cells) if confidence is None else confidence
    return fo.Detections(
        detections=[
            fo.Detection(label="person", bounding_box=[c / 10 + shift / 10, 0.1, 0.1, 0.5], confidence=s)
            for c, s in zip(cells, scores)
        ]
    )


def answer(rng, targets, skill):
    """A model's answer: each target found with probability ``skill``, and now and then something else."""
    chosen = [int(c) for c in targets if rng.random() < skill]
    if rng.random() > skill:
        chosen.append(int(rng.integers(10)))
    chosen = list(dict.fromkeys(chosen))
    return chosen, [round(float(rng.uniform(0.5, 1) if c in targets else rng.uniform(0.1, 0.7)), 3) for c in chosen]


def make_dataset(n=120, seed=0, filepaths=None, per_image=3, models=(("good", 0.9), ("poor", 0.6))):
    """``n`` samples, ``per_image`` of them on each image; one unparsed, one failed and one missing answer per model."""
    rng = np.random.default_rng(seed)
    dataset = fo.Dataset()
    samples = []
    for i in range(n):
        number = 0 if i % 8 == 7 else int(rng.choice([1, 1, 2, 3, 7]))
        targets = sorted(rng.choice(10, number, replace=False).tolist())
        image = i // per_image
        sample = fo.Sample(
            filepath=str(filepaths[image % len(filepaths)]) if filepaths else f"/nowhere/{image}.png",
            metadata=fo.ImageMetadata(width=640, height=480),
            image_id=f"image {image}",
            expression_id=f"e{i}",
            expression=f"expression {i}",
            domain="rejection" if number == 0 else DOMAINS[i % len(DOMAINS)],
            sub_domain=None if number == 0 else f"{DOMAINS[i % len(DOMAINS)]} {i % 2}",
            num_targets=number,
            ground_truth=boxes(targets),
            # one cell is never proposed, so the ceiling is below 1
            candidates=boxes([c for c in range(9)]),
        )
        for k, (name, skill) in enumerate(models):
            chosen, confidence = answer(rng, targets, skill)
            sample[name] = boxes(chosen, confidence)
            sample[f"{name}_outcome"] = "selected" if chosen else "rejected"
            if i == 10 + k:
                sample[name], sample[f"{name}_outcome"] = fo.Detections(), "unparsed"
            elif i == 20 + k:
                sample[name], sample[f"{name}_outcome"] = None, "failed"
            elif i == 30 + k:
                sample[name], sample[f"{name}_outcome"] = None, None
        samples.append(sample)
    dataset.add_samples(samples, progress=False)
    return dataset
