"""The page, the API and the metrics, inside the daemon's own loop. The only importer of fastapi and uvicorn."""
