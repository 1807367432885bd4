"""Recording from a microphone into an inbox. The only importer of sounddevice and soundfile."""
