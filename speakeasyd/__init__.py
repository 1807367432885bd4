"""speakeasyd turns audio dropped into a folder into transcripts in another folder."""

__version__ = "0.1.0"
