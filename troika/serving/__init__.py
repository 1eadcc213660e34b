"""From a Git pointer to images: fetch, Triton, client. Never imports torch, tensorflow or kfp."""
