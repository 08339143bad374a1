"""RexSeek: a multimodal language model that selects, among given boxes, those that an expression refers to."""
