"""The Python API: what `speakeasyd.__all__` offers. A front end like the commands."""
