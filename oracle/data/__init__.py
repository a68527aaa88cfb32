"""Images and labels: from their sources to batches on the device."""
