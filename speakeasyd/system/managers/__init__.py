"""The service managers of the operating systems. Each module plans the steps for one; none carries them out."""
