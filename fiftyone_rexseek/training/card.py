"""The model card of ``rexseek-tiny``: measured on fresh scenes, written beside the weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..models.rexseek import RexSeek
from .evaluation import SceneScores, fresh_scenes, score_scenes
from .plots import plot_calibration

#: Seeds of the scenes that the card reports; no stage of training or selection uses them.
CARD_SEED, CROWDED_SEED = 640_001, 640_002


def measure(rexseek: RexSeek, scenes: int = 200, per_domain: int = 3) -> tuple[SceneScores, SceneScores]:
    """Scores on ordinary scenes (3 to 10 people) and on crowded ones (10 to 20 candidates with distractors), free decoding."""
    plain = score_scenes(rexseek, fresh_scenes(CARD_SEED, scenes), per_domain)
    crowded = fresh_scenes(CROWDED_SEED, max(1, scenes // 2), num_people=(6, 10), num_distractors=(4, 10))
    return plain, score_scenes(rexseek, crowded, per_domain)


def write_card(folder: str | Path, plain: SceneScores, crowded: SceneScores, log: Sequence[dict], recipe: str) -> Path:
    """Writes ``README.md`` and ``calibration.png`` into the folder of the weights.

    Args:
        plain, crowded: from :func:`measure`
        log: rows of the joint stage's ``log.jsonl``
        recipe: how the weights were made, in Markdown
    """
    folder = Path(folder)
    plot_calibration(plain.confidence, plain.correct, folder / "calibration.png")
    worst = sorted(((k, n, share) for k, (n, share) in plain.templates.items() if n >= 8), key=lambda row: row[2])[:12]
    curve = [row for row in log if "val_density_f1" in row]
    text = f"""# rexseek-tiny

RexSeek's architecture, with a small configuration: about 2.2 million parameters in float16. It was trained from nothing
by this project, on the scenes that this project draws, so that the demo, the tests and the notebook have a model that
answers real expressions without a download.

**It knows drawn scenes only.** On photographs its answers mean nothing. Its vocabulary is the 145 words of the scenes'
grammar; any other word becomes `<unk>` (32 places are kept free for words learned by fine-tuning).

Licence: Apache-2.0, as the project. Load it with `foz.load_zoo_model("rexseek-tiny")` or
`fiftyone_rexseek.models.registry.load("rexseek-tiny")`.

## Scores

Free greedy decoding, float32 on a CPU, candidates as given; DensityF1 is the official HumanRef metric averaged over
IoU 0.5:0.95. Scenes of seeds {CARD_SEED} (3 to 10 people; {plain.count} expressions) and {CROWDED_SEED} (6 to 10 people
and 4 to 10 boxes that are nobody's; {crowded.count} expressions), used for nothing else.

| | 3 to 10 people | 10 to 20 candidates with distractors |
|---|---|---|
| DensityF1, mean of five domains | {plain.density_f1:.3f} | {crowded.density_f1:.3f} |
"""
    for domain, value in plain.domains.items():
        text += f"| DensityF1, {domain} | {value:.3f} | {crowded.domains.get(domain, float('nan')):.3f} |\n"
    for label, name in (
        ("rejected, of expressions without target", "rejection"),
        ("rejected, of expressions with targets", "false_rejection"),
        ("exactly the right set", "exact"),
        ("AUROC of confidence, right against wrong boxes", "auroc"),
        ("answers that could not be read", "unparsed"),
    ):
        a, b = getattr(plain, name), getattr(crowded, name)
        text += f"| {label} | {a:.3f} | {b:.3f} |\n" if isinstance(a, float) else f"| {label} | {a} | {b} |\n"
    text += "\nBy number of people (share of exactly right sets): "
    text += ", ".join(f"{n}: {share:.2f}" for n, (_, share) in plain.people.items()) + ".\n"
    text += "\n![Calibration of the confidence of selected boxes](calibration.png)\n"
    text += "\n## Where it fails\n\nKinds of expressions (see `datasets/scenes/templates`) with the smallest share of exactly right answers:\n\n"
    text += "| kind | asked | right |\n|---|---|---|\n"
    text += "".join(f"| {k} | {n} | {share:.2f} |\n" for k, n, share in worst)
    text += "\nAll kinds:\n\n| kind | asked | right |\n|---|---|---|\n"
    text += "".join(f"| {k} | {n} | {share:.2f} |\n" for k, (n, share) in plain.templates.items())
    text += f"\n## Recipe\n\n{recipe.strip()}\n\n## Log\n\n"
    text += "Validation during the joint stage (40 to 50 scenes of a seed of their own, free decoding, averaged weights):\n\n"
    text += "| step | DensityF1 | rejection | false rejection | exact |\n|---|---|---|---|---|\n"
    for row in curve:
        numbers = " | ".join(f"{row['val_' + n]:.3f}" for n in ("density_f1", "rejection", "false_rejection", "exact"))
        text += f"| {row['step']} | {numbers} |\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder / "README.md"
