"""Whisper on CTranslate2: the only importer of faster_whisper."""
