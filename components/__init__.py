"""Pipeline steps: plain functions, files in and files out. Never imports kfp."""
