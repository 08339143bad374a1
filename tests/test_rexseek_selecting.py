"""Selections: batching, confidence, both ways of decoding, and everything that can be wrong with a request."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_rexseek as tiny
import torch
from PIL import Image

from fiftyone_rexseek.errors import ConfigError, DataError
from fiftyone_rexseek.models.images import open_image
from fiftyone_rexseek.models.rexseek import QUESTION, SelectRequest, generation
from fiftyone_rexseek.models.rexseek import selector as selector_module
from fiftyone_rexseek.referring import Outcome

EXPRESSIONS = ["the man", "two people on the left, behind the dog", "everyone", "x", "the woman in red"]


@pytest.fixture(scope="module")
def random_model():
    return tiny.rexseek()


def same(a, b):
    assert (a.expression, a.outcome, a.answer, a.indices, a.dropped_candidates) == (
        b.expression,
        b.outcome,
        b.answer,
        b.indices,
        b.dropped_candidates,
    )
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5, rtol=0)
    np.testing.assert_allclose(a.candidate_scores, b.candidate_scores, atol=1e-5, rtol=0)
    np.testing.assert_allclose(a.rejection_score, b.rejection_score, atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------- batching


@pytest.mark.parametrize("decoding", ["free", "constrained"])
@pytest.mark.parametrize("seed", [0, 1])
def test_batched_answers_equal_one_by_one(seed, decoding):
    model = tiny.rexseek(seed, num_hidden_layers=1 + seed)
    requests = [
        SelectRequest(tiny.image(k, 60 + 20 * k, 70), tiny.boxes(n, k, 60 + 20 * k, 70), EXPRESSIONS[: 2 + k])
        for k, n in enumerate((3, 11, 1))
    ]
    options = dict(decoding=decoding, max_new_tokens=20)
    together = model.select_batch(requests, batch_size=3, workers=2, **options)
    pairs = model.select_batch(requests, batch_size=2, **options)
    for request, many, two in zip(requests, together, pairs):
        for expression, a, b in zip(request.expressions, many, two):
            one = model.select(request.image, request.boxes_xyxy, expression, **options)[0]
            same(a, one)
            same(b, one)


@pytest.mark.parametrize("decoding", ["free", "constrained"])
def test_steps_of_constant_size_give_what_growing_ones_give(monkeypatch, decoding):
    """What a GPU records, without recording it; 90 tokens are more than a cache has places for at once."""
    model = tiny.rexseek(seed=1)
    model.generation["eos_token_id"] = list(range(0, len(model.processor.tokenizer), 9))  # so that rows end early
    requests = [SelectRequest(tiny.image(k), tiny.boxes(k + 2), EXPRESSIONS[: k + 1]) for k in range(3)]

    def ask():
        rows = model.select_batch(requests, decoding=decoding, max_new_tokens=90)
        return [(s.answer, s.scores.round(5).tolist()) for row in rows for s in row]

    def recorded(rows):
        rows.graph = SimpleNamespace(replay=lambda: rows.hidden.copy_(rows._step()))
        recordings.append(rows)

    recordings, expected = [], ask()
    monkeypatch.setattr(generation._Rows, "_can_record", lambda rows: True)
    monkeypatch.setattr(generation._Rows, "_record", recorded)
    assert ask() == expected and len(recordings) > 1
    assert all(rows.span.shown == rows.size for rows in recordings)


@pytest.mark.parametrize("max_rows", [1, 3, 1024])
def test_rows_in_pieces_give_what_all_at_once_give(random_model, monkeypatch, max_rows):
    requests = [SelectRequest(tiny.image(k), tiny.boxes(k + 2), EXPRESSIONS[:3]) for k in range(3)]
    expected = random_model.select_batch(requests, max_new_tokens=5)
    monkeypatch.setattr(selector_module, "rows_that_fit", lambda *a: max_rows)
    for ours, theirs in zip(random_model.select_batch(requests, max_new_tokens=5), expected):
        for a, b in zip(ours, theirs):
            same(a, b)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_selecting_gives_the_ids_of_one_full_question(penalty):
    model = tiny.rexseek(3, {"eos_token_id": [40, 357], "repetition_penalty": penalty})
    image, boxes = tiny.image(), tiny.boxes(5)
    for selection in model.select(image, boxes, EXPRESSIONS, max_new_tokens=30):
        question = QUESTION.format(expression=selection.expression)
        ids = model.generate_ids(image, boxes, question, 30)
        assert model.processor.decode(ids).strip() == selection.answer


def test_decoding_equals_transformers_generate(random_model):
    """The reference: stock Qwen2ForCausalLM.generate on the same embeddings."""
    from transformers import Qwen2ForCausalLM

    model = random_model.model
    stock = Qwen2ForCausalLM(model.config.text_config()).eval()
    stock.model, stock.lm_head = model.model, model.lm_head
    image, boxes = tiny.image(), tiny.boxes(4)
    processor = random_model.processor
    for question in ("Please detect man.", "everyone except the kid"):
        ids = torch.tensor(processor.token_ids(4, question))
        pixels = [p[None] for p in processor.pixels(open_image(image))]
        tokens, features = model.encode_image(*pixels)
        objects = model.encode_boxes(features, [processor.boxes(boxes, (90, 60))])
        embeds = model.splice(ids, tokens[0], objects)[None]
        for penalty in (1.0, 1.2):
            mask = torch.ones(1, embeds.shape[1], dtype=torch.long)
            settings = dict(max_new_tokens=25, do_sample=False, eos_token_id=40, pad_token_id=0)
            theirs = stock.generate(
                inputs_embeds=embeds, attention_mask=mask, repetition_penalty=penalty, **settings
            )[0].tolist()
            ours = random_model.generate_ids(image, boxes, question, 25, 40, penalty)
            assert ours == theirs


def test_image_and_shared_prompt_are_computed_once(random_model, monkeypatch):
    seen = {"images": 0, "tokens": 0}
    encode, forward = random_model.model.encode_image, random_model.model.model.forward

    def count_images(large, small):
        seen["images"] += len(large)
        return encode(large, small)

    def count_tokens(*args, **kwargs):
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        seen["tokens"] += given.shape[0] * given.shape[1]
        return forward(*args, **kwargs)

    monkeypatch.setattr(random_model.model, "encode_image", count_images)
    monkeypatch.setattr(random_model.model.model, "forward", count_tokens)
    random_model.select(tiny.image(), tiny.boxes(12), EXPRESSIONS, max_new_tokens=2)
    ids = random_model.processor.token_ids_of_expressions(12, EXPRESSIONS)
    shared = selector_module._common_prefix(ids)
    assert seen["images"] == 1
    suffixes = len(EXPRESSIONS) * (max(map(len, ids)) - shared)
    assert seen["tokens"] <= shared + 3 + suffixes + len(EXPRESSIONS)


# ---------------------------------------------------------------------------------------- answers, confidence


def test_selected_boxes_and_their_confidence():
    model = tiny.script(
        tiny.rexseek(),
        "<ground>man</ground><objects><obj1><obj3></objects>",
        {"<objects>": ("<obj2>", 19.0), "<obj1>": ("</objects>", 18.0), "": ("There", 17.0)},
    )
    boxes = tiny.boxes(4)
    found = model.select(tiny.image(), boxes, "the man")[0]
    assert found.outcome is Outcome.SELECTED and found.indices == (1, 3)
    assert found.answer == "<ground>man</ground><objects><obj1><obj3></objects><|im_end|>"
    np.testing.assert_allclose(found.boxes_xyxy, np.array(boxes)[[1, 3]])
    group = 1 / (1 + np.exp(-3))
    first, second = group / (1 + np.exp(-1)), group / (1 + np.exp(-2))
    np.testing.assert_allclose(found.scores, [first, second], atol=1e-3)
    np.testing.assert_allclose(found.candidate_scores[2], group - first, atol=1e-3)
    assert found.candidate_scores[0] < 1e-3
    np.testing.assert_allclose(found.rejection_score, 1 - group, atol=1e-3)
    constrained = model.select(tiny.image(), boxes, "the man", decoding="constrained")[0]
    same(constrained, found)


def test_rejection_and_its_confidence():
    model = tiny.rexseek()
    sentence = model.processor.decode(model.processor.rejection_ids[:5])
    model = tiny.script(model, sentence, {"": ("<ground>", 19.0)})
    model.processor.rejection_ids = model.processor.encode(sentence)
    free = model.select(tiny.image(), tiny.boxes(3), "a unicorn")[0]
    assert free.outcome is Outcome.UNPARSED and free.error  # the sentence was cut short
    np.testing.assert_allclose(free.rejection_score, 1 / (1 + np.exp(-1)), atol=1e-3)
    assert np.isnan(free.candidate_scores).all()
    constrained = model.select(tiny.image(), tiny.boxes(3), "a unicorn", decoding="constrained")[0]
    assert constrained.outcome is Outcome.REJECTED and len(constrained) == 0
    assert constrained.rejection_score >= free.rejection_score - 1e-6
    assert np.isfinite(constrained.candidate_scores).all(), "constrained decoding scores every candidate"


def test_empty_object_list_is_a_rejection():
    model = tiny.script(
        tiny.rexseek(), "<ground>man</ground><objects></objects>", {"<objects>": ("<obj0>", 18.0)}
    )
    for decoding in ("free", "constrained"):
        found = model.select(tiny.image(), tiny.boxes(2), "a unicorn", decoding=decoding)[0]
        assert found.outcome is Outcome.REJECTED and found.answer.startswith(
            "<ground>man</ground><objects></objects>"
        )
        np.testing.assert_allclose(found.rejection_score, 1 / (1 + np.exp(-2)), atol=1e-3)


def test_boxes_that_do_not_exist_are_never_selected():
    model = tiny.script(tiny.rexseek(), "<ground>man</ground><objects><obj7><obj1></objects>")
    image, boxes = tiny.image(), tiny.boxes(3)
    assert model.select(image, boxes, "the man")[0].indices == (1,)
    strict = model.select(image, boxes, "the man", parser="evaluation")[0]
    assert strict.outcome is Outcome.UNPARSED and "7" in strict.error
    only = tiny.script(tiny.rexseek(), "<ground>man</ground><objects><obj7></objects>")
    wrong = only.select(image, boxes, "the man")[0]
    assert wrong.outcome is Outcome.UNPARSED and len(wrong) == 0 and "do not exist" in wrong.error


def test_truncated_free_answer_says_so():
    model = tiny.script(tiny.rexseek(), "<ground>man</ground><objects><obj0><obj1></objects>")
    cut = model.select(tiny.image(), tiny.boxes(3), "the man", max_new_tokens=5)[0]
    assert cut.outcome is Outcome.UNPARSED and "max_new_tokens=5" in cut.error
    whole = model.select(tiny.image(), tiny.boxes(3), "the man", max_new_tokens=5, decoding="constrained")[0]
    assert whole.indices == (0, 1), "constrained answers are never cut off"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 40])
def test_constrained_decoding_of_a_random_model_is_always_well_formed(seed, n):
    model = tiny.rexseek(10 + seed)
    for found in model.select(
        tiny.image(), tiny.boxes(n), EXPRESSIONS, decoding="constrained", max_new_tokens=8
    ):
        assert found.outcome.is_answer
        assert len(set(found.indices)) == len(found.indices) and all(0 <= i < n for i in found.indices)
        assert np.isfinite(found.candidate_scores).all() and len(found.candidate_scores) == n
        assert 0 <= found.rejection_score <= 1 and (found.candidate_scores <= 1).all()
        if found.outcome is Outcome.SELECTED:
            assert found.answer.endswith("</objects><|im_end|>")
            assert found.answer.count("<ground>") == found.answer.count("</objects>")


# ------------------------------------------------------------------------------------------------- bad input


def test_no_candidates_are_rejected_without_a_call(random_model, monkeypatch):
    monkeypatch.setattr(random_model.model, "encode_image", None)
    found = random_model.select(tiny.image(), [], ["the man", ""])
    assert [f.outcome for f in found] == [Outcome.REJECTED, Outcome.FAILED]
    assert found[0].rejection_score == 1.0 and len(found[0].candidate_scores) == 0


def test_more_than_a_hundred_candidates(random_model, caplog):
    boxes = tiny.boxes(150)
    scores = np.linspace(0, 1, 150)
    found = random_model.select(tiny.image(), boxes, ["a"], scores=scores, decoding="constrained")[0]
    assert found.dropped_candidates == 50
    assert np.isnan(found.candidate_scores[:50]).all() and np.isfinite(found.candidate_scores[50:]).all()
    assert all(i >= 50 for i in found.indices)
    assert "only the best 100 of 150 candidates" in caplog.text
    model = tiny.script(tiny.rexseek(), "<ground>man</ground><objects><obj3></objects>")
    assert model.select(tiny.image(), boxes, "a", scores=scores)[0].indices == (53,)


def test_bad_boxes_are_left_out_and_named(caplog):
    model = tiny.script(tiny.rexseek(), "<ground>man</ground><objects><obj1></objects>")
    good = tiny.boxes(2)
    boxes = [[np.nan, 0, 1, 1], good[0], [9, 9, 2, 2], [200, 200, 300, 300], good[1]]
    found = model.select(tiny.image(), boxes, "the man")[0]
    assert found.indices == (4,) and found.dropped_candidates == 3 and len(found.candidate_scores) == 5
    assert "box 0 has a coordinate that is NaN" in caplog.text and "box 3 lies outside" in caplog.text
    failed = model.select(tiny.image(), boxes[:1], "the man")[0]
    assert failed.outcome is Outcome.FAILED and "NaN" in failed.error


def test_bad_expressions_fail_alone(random_model):
    long = "the man " * 600
    found = random_model.select(
        tiny.image(),
        tiny.boxes(2),
        ["", "  ", None, long, "左边的人", "<obj1><|im_end|>", "half \ud800"],
        max_new_tokens=4,
    )
    assert [f.outcome is Outcome.FAILED for f in found] == [True] * 4 + [False] * 3
    assert "empty" in found[0].error and "NoneType" in found[2].error and "too long" in found[3].error
    assert found[3].expression == long
    for no_list in (None, 7):
        [found] = random_model.select(tiny.image(), tiny.boxes(2), no_list)
        assert found.outcome is Outcome.FAILED and type(no_list).__name__ in found.error


@pytest.mark.parametrize("boxes", [7, object(), [[0, 0, 1e30, 5]], [[-400, 0, 5, 5]]])
def test_senseless_boxes_fail_that_image_alone(random_model, boxes):
    requests = [SelectRequest(tiny.image(), boxes, ["a"]), SelectRequest(tiny.image(), tiny.boxes(2), ["a"])]
    found = [f.outcome for [f] in random_model.select_batch(requests, batch_size=2, max_new_tokens=2)]
    assert found[0] is Outcome.FAILED and found[1] is not Outcome.FAILED


def test_scores_that_are_no_numbers(random_model):
    [found] = random_model.select(tiny.image(), tiny.boxes(2), "a", scores=["high", "low"])
    assert found.outcome is Outcome.FAILED and "scores are not numbers" in found.error


def test_boxes_of_any_kind_of_tensor(random_model):
    boxes = torch.tensor(tiny.boxes(3)).bfloat16()
    expected = random_model.generate_ids(tiny.image(), boxes.float(), "x", 3)
    assert random_model.generate_ids(tiny.image(), boxes, "x", 3) == expected
    same(*(random_model.select(tiny.image(), b, "x", max_new_tokens=3)[0] for b in (boxes, boxes.float())))


@pytest.mark.parametrize("decoding", ["free", "constrained"])
def test_numbers_that_are_not_finite_are_no_answer(decoding):
    model = tiny.rexseek()
    model.model.model.layers[0].mlp.up_proj.weight.fill_(np.nan)
    [found] = model.select(tiny.image(), tiny.boxes(2), "a", decoding=decoding, max_new_tokens=3)
    assert found.outcome is Outcome.FAILED and "not finite" in found.error


def test_unreadable_image_fails_alone(random_model, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 nothing")
    truncated = tmp_path / "truncated.png"
    Image.fromarray(tiny.image()).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    requests = [
        SelectRequest(broken, tiny.boxes(2), ["a", "b"]),
        SelectRequest(tiny.image(), tiny.boxes(2), ["a"]),
        SelectRequest(tmp_path / "none.png", tiny.boxes(2), ["a"]),
        SelectRequest(tiny.image(), "boxes", ["a"]),
        SelectRequest(7, tiny.boxes(2), "a"),
        SelectRequest(Image.open(truncated), tiny.boxes(2), ["a"]),  # PIL decodes it later
        SelectRequest(np.zeros((1, 2**16 + 1, 3), np.uint8), [[0, 0, 5, 1]], ["a"]),
    ]
    results = random_model.select_batch(requests, batch_size=4, max_new_tokens=3)
    assert [[r.outcome is Outcome.FAILED for r in rs] for rs in results] == [
        [True, True],
        [False],
        [True],
        [True],
        [True],
        [True],
        [True],
    ]
    assert "broken.jpg" in results[0][0].error and "does not exist" in results[2][0].error


def test_every_kind_of_image(random_model):
    rgb = Image.fromarray(tiny.image())
    images = [rgb.convert(mode) for mode in ("L", "P", "CMYK", "RGBA", "1")] + [np.asarray(rgb.convert("L"))]
    requests = [SelectRequest(image, tiny.boxes(2), ["a"]) for image in images]
    for (found,) in random_model.select_batch(requests, max_new_tokens=2):
        assert found.outcome is not Outcome.FAILED


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_halves_the_batch_then_fails_that_image_alone(random_model, monkeypatch, error, caplog):
    run, sizes = random_model._run, []

    def limited(jobs, options, max_rows):
        rows = min(max_rows, sum(len(j.rows) for j in jobs))
        sizes.append((len(jobs), rows))
        if len(jobs) > 1 or rows > 2 or any(len(j.boxes) == 7 for j in jobs):
            raise error
        run(jobs, options, max_rows)

    requests = [
        SelectRequest(tiny.image(k), tiny.boxes(7 if k == 2 else 3), EXPRESSIONS[:4]) for k in range(4)
    ]
    expected = random_model.select_batch(requests, max_new_tokens=5)
    monkeypatch.setattr(random_model, "_run", limited)
    results = random_model.select_batch(requests, batch_size=4, max_new_tokens=5)
    assert sizes[:3] == [(4, 16), (2, 8), (1, 4)]
    for k, (ours, theirs) in enumerate(zip(results, expected)):
        for a, b in zip(ours, theirs):
            if k == 2:
                assert a.outcome is Outcome.FAILED and "out of memory" in a.error and "fewer boxes" in a.error
            else:
                same(a, b)
    assert "half of them" in caplog.text


def test_other_errors_are_not_taken_for_lack_of_memory(random_model, monkeypatch):
    monkeypatch.setattr(
        random_model.model, "encode_image", lambda *a: (_ for _ in ()).throw(RuntimeError("a bug"))
    )
    with pytest.raises(RuntimeError, match="a bug"):
        random_model.select(tiny.image(), tiny.boxes(2), "x")


def test_unknown_options(random_model):
    with pytest.raises(ConfigError, match="unknown decoding"):
        random_model.select(tiny.image(), tiny.boxes(2), "x", decoding="beam")
    with pytest.raises(ConfigError, match="unknown parser"):
        random_model.select(tiny.image(), tiny.boxes(2), "x", parser="mine")
    for option in ("batch_size", "max_new_tokens"):
        with pytest.raises(ConfigError, match=f"bad {option}"):
            random_model.select(tiny.image(), tiny.boxes(2), "x", **{option: 0})
    with pytest.raises(ConfigError, match="no list"):
        random_model.select_batch(SelectRequest(tiny.image(), tiny.boxes(2), "x"))


def test_generate_ids_refuses_what_the_network_cannot_take(random_model):
    with pytest.raises(DataError, match="needs boxes"):
        random_model.generate_ids(tiny.image(), [], "x", 3)
    with pytest.raises(DataError, match="finite"):
        random_model.generate_ids(tiny.image(), [[np.nan, 0, 1, 1]], "x", 3)
    with pytest.raises(DataError, match="more <objfeat> marks"):
        random_model.generate_ids(tiny.image(), tiny.boxes(2), "the <objfeat>", 3)
    for boxes in ([[0, 0, 5, 5, 1]] * 4, None, 7, [[0, 0, 5, 5], None]):
        with pytest.raises(DataError, match="boxes"):
            random_model.generate_ids(tiny.image(), boxes, "x", 3)
    with pytest.raises(DataError, match="no text"):
        random_model.generate_ids(tiny.image(), tiny.boxes(2), None, 3)
    with pytest.raises(DataError, match="not an image"):
        random_model.generate_ids(None, tiny.boxes(2), "x", 3)
    with pytest.raises(ConfigError, match="repetition_penalty"):
        random_model.generate_ids(tiny.image(), tiny.boxes(2), "x", 3, repetition_penalty=0)


def test_end_tokens_of_any_kind():
    model = tiny.rexseek()
    ids = model.generate_ids(tiny.image(), tiny.boxes(2), "x", 6)
    for end in (ids[3], [ids[3], 99999], np.int64(ids[3]), torch.tensor([ids[3]])):
        assert (
            model.generate_ids(tiny.image(), tiny.boxes(2), "x", 6, eos_token_id=end)
            == ids[: ids.index(ids[3]) + 1]
        )
    for stated, used in ((None, (408,)), ([], (408,)), ([99999, 3], (3,))):
        model.generation = {"eos_token_id": stated}
        assert model.eos_ids == used
        assert model.select(tiny.image(), tiny.boxes(2), "x", decoding="constrained")[0].outcome.is_answer
    model.generation = {"eos_token_id": None}
    assert model.generate_ids(tiny.image(), tiny.boxes(2), "x", 6) == ids


def test_low_precision_runs():
    model = tiny.rexseek()
    model.model.to(torch.bfloat16)
    found = model.select(tiny.image(), tiny.boxes(3), EXPRESSIONS, decoding="constrained")
    assert all(f.outcome.is_answer for f in found)


def test_network_can_be_trained():
    model = tiny.rexseek().model.requires_grad_(True)
    processor = tiny.rexseek().processor
    large, small = processor.pixels(open_image(tiny.image()))
    boxes = processor.boxes(tiny.boxes(2), (90, 60))
    rows = processor.token_ids_of_expressions(2, ["the man in the corner", "x"])
    width = max(map(len, rows))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    logits = model(ids, torch.stack([large] * 2), torch.stack([small] * 2), [boxes, boxes], mask)
    alone = model(ids[1:, : len(rows[1])], large[None], small[None], [boxes])
    torch.testing.assert_close(logits[1, : alone.shape[1]], alone[0], atol=1e-4, rtol=0)
    logits[0].logsumexp(-1).mean().backward()
    unused = (
        "vision_model.post_layernorm",
        "vision_model.encoder.layers.1.",
    )  # above the selected CLIP layer
    for name, parameter in model.named_parameters():
        if not any(part in name for part in unused):
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
