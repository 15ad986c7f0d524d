"""Speech data: manifests, audio, batches, augmentation, corpora."""
