"""Tiny random Grounding DINO, SAM, SAM2 and a tiny spaCy pipeline, built on the spot for the tests."""

from __future__ import annotations

import random

import numpy as np

WORDS = "a the person dog cat man woman red hat car . , left right people object two".split()


def bert_tokenizer():
    from transformers import BertTokenizerFast

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    return BertTokenizerFast(vocab=vocab)


def bert_config(hidden: int = 32):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(WORDS) + 5,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )


def grounding_dino(folder, seed: int = 0):
    """A random Grounding DINO of half a million parameters, saved; the folder."""
    import torch
    from transformers import (
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    torch.manual_seed(seed)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=32, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=4, out_indices=[2, 3, 4]
        ),
        text_config=bert_config(),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=30,
    )
    model = GroundingDinoForObjectDetection(config).eval()
    for name, p in model.named_parameters():
        # as built, the box heads end in zeros and every box is the same
        if "bbox_embed" in name:
            torch.nn.init.normal_(p, std=0.3)
    model.save_pretrained(folder)
    size = {"shortest_edge": 128, "longest_edge": 192}
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), bert_tokenizer()).save_pretrained(folder)
    return folder


def sam(folder, seed: int = 0):
    """A random transformers SAM at 64 pixels, saved; the folder."""
    import torch
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(seed)
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=32,
            output_channels=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=64,
            patch_size=8,
            mlp_dim=64,
            num_pos_feats=16,
            global_attn_indexes=[1],
            window_size=4,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=8, mask_input_channels=4),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )
    SamModel(config).eval().save_pretrained(folder)
    size, pad = {"longest_edge": 64}, {"height": 64, "width": 64}
    SamProcessor(SamImageProcessor(size=size, pad_size=pad)).save_pretrained(folder)
    return folder


def sam2(folder, seed: int = 0):
    """A random transformers SAM2 at 128 pixels, saved; the folder."""
    import torch
    from transformers import Sam2Config, Sam2ImageProcessor, Sam2Model, Sam2Processor, Sam2VisionConfig
    from transformers.models.sam2 import Sam2HieraDetConfig, Sam2MaskDecoderConfig, Sam2PromptEncoderConfig

    torch.manual_seed(seed)
    dims = [16, 32, 64, 128]
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=dims,
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=dims[::-1],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    config = Sam2Config(
        vision_config=vision,
        prompt_encoder_config=Sam2PromptEncoderConfig(hidden_size=32, image_size=128, patch_size=16, mask_input_channels=4),
        mask_decoder_config=Sam2MaskDecoderConfig(
            hidden_size=32, mlp_dim=64, num_hidden_layers=2, num_attention_heads=2, iou_head_hidden_dim=32
        ),
    )
    Sam2Model(config).eval().save_pretrained(folder)
    Sam2Processor(Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


# word/POS/dependency/head (1-based; the root points to itself)
PHRASES = """
the/DET/det/2 man/NOUN/ROOT/2
a/DET/det/2 dog/NOUN/ROOT/2
person/NOUN/ROOT/1
red/ADJ/amod/2 car/NOUN/ROOT/2
the/DET/det/3 small/ADJ/amod/3 cat/NOUN/ROOT/3
the/DET/det/2 man/NOUN/ROOT/2 in/ADP/prep/2 a/DET/det/6 red/ADJ/amod/6 shirt/NOUN/pobj/3
the/DET/det/2 woman/NOUN/ROOT/2 with/ADP/prep/2 a/DET/det/5 hat/NOUN/pobj/3
person/NOUN/ROOT/1 wearing/VERB/acl/1 a/DET/det/5 blue/ADJ/amod/5 jacket/NOUN/dobj/2
the/DET/det/2 dog/NOUN/ROOT/2 on/ADP/prep/2 the/DET/det/5 left/NOUN/pobj/3
man/NOUN/ROOT/1 holding/VERB/acl/1 an/DET/det/4 umbrella/NOUN/dobj/2
two/NUM/nummod/2 people/NOUN/ROOT/2
three/NUM/nummod/3 black/ADJ/amod/3 dogs/NOUN/ROOT/3
the/DET/det/3 red/ADJ/amod/3 square/NOUN/ROOT/3 left/ADJ/advmod/3 of/ADP/prep/4 the/DET/det/8 blue/ADJ/amod/8 circle/NOUN/pobj/5
the/DET/det/2 boy/NOUN/ROOT/2 and/CCONJ/cc/2 the/DET/det/5 girl/NOUN/conj/2
the/DET/det/2 person/NOUN/ROOT/2 who/PRON/nsubj/4 is/AUX/relcl/2 tall/ADJ/acomp/4
the/DET/det/2 dog/NOUN/ROOT/2 that/PRON/nsubj/4 has/VERB/relcl/2 a/DET/det/7 white/ADJ/amod/7 tail/NOUN/dobj/4
the/DET/det/2 woman/NOUN/nsubj/4 is/AUX/aux/4 holding/VERB/ROOT/4 a/DET/det/6 bag/NOUN/dobj/4
he/PRON/nsubj/2 rides/VERB/ROOT/2 a/DET/det/5 brown/ADJ/amod/5 horse/NOUN/dobj/2
a/DET/det/2 person/NOUN/ROOT/2 not/PART/neg/4 wearing/VERB/acl/2 a/DET/det/6 helmet/NOUN/dobj/4
""".strip().splitlines()
SWAPS = {
    "NOUN": "man woman dog cat car truck person box cup bus horse shirt hat bag tree table ball kite zebra".split(),
    "ADJ": "red blue green small large black white old tall yellow brown striped orange pink".split(),
}


def spacy_pipeline(folder, seed: int = 0, copies: int = 10, epochs: int = 10):
    """Trains a tagger and parser that find noun chunks in phrases like the above (about 2 s), saved; the folder."""
    import spacy
    from spacy.tokens import Doc
    from spacy.training import Example

    rng = random.Random(seed)
    spacy.util.fix_random_seed(seed)
    nlp = spacy.blank("en")
    embed = {
        "@architectures": "spacy.HashEmbedCNN.v2",
        "pretrained_vectors": None,
        "width": 64,
        "depth": 2,
        "embed_size": 1000,
        "window_size": 1,
        "maxout_pieces": 3,
        "subword_features": True,
    }
    listen = {"@architectures": "spacy.Tok2VecListener.v1", "width": 64, "upstream": "*"}
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "parser",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": True,
        "tok2vec": listen,
    }
    nlp.add_pipe("tok2vec", config={"model": embed})
    nlp.add_pipe("morphologizer", config={"model": {"@architectures": "spacy.Tagger.v2", "tok2vec": listen}})
    nlp.add_pipe("parser", config={"model": parser})
    examples = []
    for phrase in PHRASES:
        rows = [t.rsplit("/", 3) for t in phrase.split()]
        for copy in range(copies):
            words = [r[0] for r in rows]
            if copy:
                keep = ("left", "people")
                words = [
                    rng.choice(SWAPS[r[1]]) if r[1] in SWAPS and r[0] not in keep and rng.random() < 0.7 else r[0] for r in rows
                ]
            doc = Doc(nlp.vocab, words=words, pos=[r[1] for r in rows], deps=[r[2] for r in rows], heads=[int(r[3]) - 1 for r in rows])
            examples.append(Example(Doc(nlp.vocab, words=words), doc))
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(epochs):
        rng.shuffle(examples)
        for batch in spacy.util.minibatch(examples, 16):
            nlp.update(batch, sgd=optimizer, drop=0.1)
    nlp.to_disk(folder)
    return folder


def picture(width: int = 160, height: int = 128, seed: int = 0):
    """A random but smooth RGB image."""
    from PIL import Image

    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
