"""Training of RexSeek and ReLA, without fiftyone.

``loop`` runs any model over any stream of batches; ``optim`` holds the optimisers; ``rexseek`` and ``rela`` say
what a batch and a loss are; ``tiny`` trains the models that ship with the package from nothing.
"""
