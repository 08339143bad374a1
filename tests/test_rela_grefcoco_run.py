"""ReLA on files in gRefCOCO's format, from import to GRES and GREC scores, against numbers computed here from the files alone."""

import json

import fiftyone as fo
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import fiftyone_rexseek.types as frt
from fiftyone_rexseek import masks as rle
from fiftyone_rexseek.datasets.scenes import VOCABULARY, write_grefcoco
from fiftyone_rexseek.errors import ConfigError
from fiftyone_rexseek.integration.apply import apply_expressions
from fiftyone_rexseek.integration.evaluation import evaluate_referring
from fiftyone_rexseek.integration.reset import reset
from fiftyone_rexseek.models.rela import ReLA, ReLAConfig, ReLANetwork
from fiftyone_rexseek.models.rela.tokenization import build_word_tokenizer

SIZES = dict(
    text_dim=64, text_layers=1, text_heads=1, text_ffn_dim=64, vocab_size=256, text_positions=32, hidden_dim=32, mask_dim=16,
    encoder_ffn_dim=32, encoder_layers=1, decoder_ffn_dim=32, decoder_layers=2, image_size=64, swin_embed_dim=8,
    swin_depths=(1, 1, 2, 1), swin_heads=(1, 2, 2, 4), swin_windows=(4, 3, 2, 2),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_grefcoco(path, seed=11, count=10, size=(160, 128), refs_per_scene=3, num_people=(2, 4))
    return path


@pytest.fixture(scope="module")
def dataset(folder):
    dataset = fo.Dataset.from_dir(
        str(folder / "grefcoco"), dataset_type=frt.GRefCOCODataset, data_path=str(folder / "images" / "train2014")
    )
    yield dataset
    dataset.delete()


def undecided(journal: bool, dataset) -> ReLA:
    """Random weights that say "nobody" to about half of the expressions and draw about half of the pixels."""
    torch.manual_seed(2)
    config = ReLAConfig(**SIZES, variant="custom", box_head=journal, count_head=journal)
    rela = ReLA(ReLANetwork(config), build_word_tokenizer(VOCABULARY, config.vocab_size, config.max_text_length))
    predictor = rela.network.sem_seg_head.predictor
    head = predictor.count_embed if journal else predictor.nt_embed
    with torch.no_grad():
        for name, parameter in rela.network.named_parameters():
            if "lang_proj" in name or "res_gate" in name:
                parameter.normal_(std=0.5)
        head.layers[0].weight.mul_(5)
        nobody, somebody = (0, 2) if journal else (1, 0)
        bias = head.layers[-1].bias
        bias.fill_(-50.0)
        bias[[nobody, somebody]] = 0.0
        scores = np.array([s.rejection_score for s in answers_of(rela, dataset).values()])
        logits = np.sort(np.log(scores) - np.log1p(-scores))
        middle = np.arange(len(logits) // 4, 3 * len(logits) // 4)
        widest = middle[np.diff(logits)[middle].argmax()]  # rounding must not decide
        bias[nobody] -= float(logits[widest : widest + 2].mean())
    return rela


def answers_of(rela: ReLA, dataset) -> dict:
    """Selections by sample, image by image, as they are asked."""
    asked: dict[str, list] = {}
    for id_, path, text in zip(*dataset.values(["id", "filepath", "expression"])):
        asked.setdefault(path, []).append((id_, text))
    return {
        id_: selection
        for path, own in asked.items()
        for (id_, _), selection in zip(own, rela.segment(path, [text for _, text in own]))
    }


def truth_of(folder) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Union mask and boxes (n, 4) of every expression, read from the files without this package."""
    coco = COCO(str(folder / "grefcoco" / "instances.json"))
    found = {}
    for ref in json.loads((folder / "grefcoco" / "grefs(unc).json").read_text()):
        info = coco.imgs[ref["image_id"]]
        targets = [coco.anns[i] for i in ref["ann_id"] if i != -1]
        union = np.zeros((info["height"], info["width"]), bool)
        for target in targets:
            union |= coco.annToMask(target).astype(bool)
        boxes = np.array([t["bbox"] for t in targets], dtype=float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        for sentence in ref["sentences"]:
            found[f"{ref['ref_id']}_{sentence['sent_id']}"] = union, boxes
    return found


def gres_by_hand(rows) -> dict[str, float]:
    """The rules of the public evaluator on (target, drawn, says nobody) masks."""
    ious, shared, either, right, kinds = [], 0, 0, {True: 0, False: 0}, {True: 0, False: 0}
    for target, drawn, nobody in rows:
        empty = not target.any()
        kinds[empty] += 1
        right[empty] += nobody == empty
        if empty:
            ious.append(float(nobody))
            either += 0 if nobody else drawn.sum()
            continue
        inter, union = (target & drawn).sum(), (target | drawn).sum()
        ious.append(0.0 if nobody else inter / union)
        shared, either = shared + (0 if nobody else inter), either + union
    return {
        "gIoU": 100 * np.mean(ious), "cIoU": 100 * shared / either,
        "N_acc": right[True] / kinds[True], "T_acc": right[False] / kinds[False],
    }  # fmt: skip


def grec_by_hand(rows) -> dict[str, float]:
    """Exact sets of boxes at IoU 0.5, best pair first."""
    success, kinds = {True: 0, False: 0}, {True: 0, False: 0}
    spoke = 0
    for targets, boxes in rows:
        empty = not len(targets)
        kinds[empty] += 1
        if empty:
            success[True] += not len(boxes)
            continue
        spoke += len(boxes) > 0
        xyxy = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in np.concatenate([boxes, targets]).tolist()]
        iou = np.asarray(coco_mask.iou(xyxy[: len(boxes)], xyxy[len(boxes) :], [0] * len(targets))).reshape(len(boxes), len(targets))
        matched = 0
        while iou.size and iou.max() >= 0.5:
            i, j = np.unravel_index(iou.argmax(), iou.shape)
            iou[i], iou[:, j], matched = -1, -1, matched + 1
        success[False] += matched == len(boxes) == len(targets)
    return {
        "F1_score": sum(success.values()) / sum(kinds.values()), "N_acc": success[True] / kinds[True],
        "T_acc": spoke / kinds[False],
    }  # fmt: skip


@pytest.mark.parametrize("journal", [False, True], ids=["conference", "journal"])
def test_from_files_to_scores(journal, dataset, folder, tmp_path):
    rela, field = undecided(journal, dataset), f"p{int(journal)}"
    summary = apply_expressions(dataset, rela, field, batch_size=1, mask_dir=tmp_path / "masks" if journal else None)
    assert summary.outcomes["failed"] == 0 and min(summary.outcomes["selected"], summary.outcomes["rejected"]) >= 3

    truth, gres_rows, grec_rows = truth_of(folder), [], []
    assert len(truth) == len(dataset)
    expected_answers = answers_of(rela, dataset)
    for sample in dataset:
        selection = expected_answers[sample.id]
        nobody = selection.outcome.value == "rejected"
        drawn = rle.decode(selection.merged_mask)
        union, targets = truth[sample.expression_id]
        assert sample[f"{field}_outcome"] == selection.outcome.value
        stored = sample[field].detections
        if nobody:
            assert not stored
        elif not journal:
            # the merged mask is one detection in the box around it
            assert len(stored) == bool(drawn.any()) and all(d["merged"] for d in stored)
        else:
            assert len(stored) == len(selection) == 2
        boxes = np.array([d["box_xyxy"] for d in stored], dtype=float).reshape(-1, 4)
        if not journal and drawn.any() and not nobody:
            y, x = drawn.nonzero()
            assert boxes.tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]
        gres_rows.append((union, drawn, nobody))
        grec_rows.append((targets, boxes))

    gres = evaluate_referring(dataset, field, eval_key=f"s{field}", method="gres", protocol="original-size").report()
    expected = gres_by_hand(gres_rows)
    assert {k: gres[k] for k in expected} == pytest.approx(expected, rel=1e-6)
    assert dataset.mean(f"s{field}_iou") == pytest.approx(expected["gIoU"] / 100)
    grec = evaluate_referring(dataset, field, eval_key=f"b{field}", method="grec", protocol="paper", output="all").report()
    expected = grec_by_hand(grec_rows)
    assert {k: grec[k] for k in expected} == pytest.approx(expected)
    for report in (gres, grec):  # what a dump holds
        assert json.loads(json.dumps(report))["N_acc"] == report["N_acc"]
    assert expected["N_acc"] > 0 and 0 < expected["T_acc"] < 1
    (as_counted if journal else without_count)(dataset, field, grec_rows, expected)


def grec_by_count(dataset, field, **options) -> dict:
    return evaluate_referring(dataset, field, method="grec", output="count", **{"protocol": "paper", **options}).report()


def as_counted(dataset, field, rows, expected) -> None:
    """The model gave out as many boxes as it counted, so its count and all its boxes are the same answer."""
    counts = dataset.values(f"{field}_count")
    assert counts == [0 if outcome == "rejected" else 2 for outcome in dataset.values(f"{field}_outcome")]
    found = grec_by_count(dataset, field)
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    assert "notes" not in found
    by_threshold = evaluate_referring(dataset, field, method="grec").report()
    assert by_threshold["output"] == "threshold" and f"'{field}_count'" in by_threshold["notes"][0]

    # what is in the field decides: the best of the boxes, or none
    allowed = [min(c, i % 3) for i, c in enumerate(counts)]
    dataset.set_values(f"{field}_count", allowed)
    scores = dataset.values(f"{field}.detections.confidence")
    best = [(t, boxes[np.argsort(s)[::-1][:n]]) for (t, boxes), s, n in zip(rows, scores, allowed)]
    found, by_hand = grec_by_count(dataset, field), grec_by_hand(best)
    assert {k: found[k] for k in by_hand} == pytest.approx(by_hand) and by_hand != expected

    dataset.set_values(f"{field}_count", [None, *counts[1:]])
    with pytest.raises(ConfigError, match=rf"'{field}_count'.*1 of {len(counts)} answers without"):
        grec_by_count(dataset, field)
    dataset.set_values(f"{field}_count", counts)
    assert f"{field}_count" in next(g.paths for g in dataset.app_config.sidebar_groups if g.name == f"answers of {field}")
    reset(dataset, predictions=[field])
    assert not [name for name in dataset.get_field_schema() if name.startswith(field)]


def without_count(dataset, field, rows, expected) -> None:
    assert not dataset.has_sample_field(f"{field}_count")
    with pytest.raises(ConfigError, match=f"'{field}_count'"):
        grec_by_count(dataset, field)
    assert "notes" not in evaluate_referring(dataset, field, method="grec").report()
