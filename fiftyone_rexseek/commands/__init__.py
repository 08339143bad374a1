"""The subcommands of ``fiftyone-rexseek``, one module each."""
